"""The entries of servers in a plan: one module per engine."""
