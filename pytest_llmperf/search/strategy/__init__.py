"""Chooses the configuration that a search tries next, and the best one. Pure."""
