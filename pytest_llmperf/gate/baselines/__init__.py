"""Stored baselines: what they hold, their files, how they grow and age."""
