"""Turns the events of an answer into facts: its text, the counts that are believed, and whether it is whole."""
