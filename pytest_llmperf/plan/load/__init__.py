"""The loads of a plan: as they are written, and the points that come of them."""
