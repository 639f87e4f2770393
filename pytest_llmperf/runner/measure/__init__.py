"""The runs of one load point, and the warm-up before them."""
