"""What is going to be measured: the tests that were collected, and what their markers select of a plan."""
