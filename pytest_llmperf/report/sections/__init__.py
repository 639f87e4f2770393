"""Sections of a report: each with its numbers, and how terminal, JSON and HTML show them."""
