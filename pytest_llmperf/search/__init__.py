"""Configuration search: which configuration of a server is the best one that keeps the limits."""
