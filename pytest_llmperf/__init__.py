"""Performance regression tests for LLM serving, in pytest."""

__version__ = "0.1.0"
