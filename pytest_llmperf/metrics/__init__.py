"""Turns request records into metrics and a result, and judges whether these can be trusted."""
