"""A server's process: its supervisor and its log."""
