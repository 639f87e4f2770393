"""What each engine can be told in a plan: one module per engine."""
