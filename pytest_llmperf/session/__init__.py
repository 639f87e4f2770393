"""A pytest session: its options, what it selects, its fixtures and its state."""
