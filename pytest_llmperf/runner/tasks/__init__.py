"""What is measured of a point: the runs of a load, or the searches of a capacity."""
