"""The measurement of a point: the runs of a load, or the searches of a capacity."""
