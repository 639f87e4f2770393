"""The open and the closed loop, and what both send requests by."""
