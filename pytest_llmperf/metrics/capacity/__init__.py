"""Capacity: the highest request rate or concurrency at which a server still meets its limits."""
