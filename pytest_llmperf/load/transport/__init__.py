"""Connections: bytes out, bytes in, and the time at which each came."""
