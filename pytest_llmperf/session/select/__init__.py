"""Decides what a session measures: the tests that were collected, and the parts of a plan that their markers select."""
