"""Readers of other load tools' result files, one module per tool."""
