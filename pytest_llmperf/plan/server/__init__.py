"""The servers of a plan: their engines, and the axes that a plan sweeps."""
