"""Measures points on servers: runs, rounds in turns, and what comes of them."""
