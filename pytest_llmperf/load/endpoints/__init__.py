"""The endpoints that a load can ask: one module each, and the table of them."""
