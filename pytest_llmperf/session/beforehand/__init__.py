"""Knowledge of a session before it measures: mistakes, what its gates will say, what it would do."""
