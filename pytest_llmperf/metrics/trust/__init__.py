"""Trust in a run's numbers: validity, stability, saturation, remarks."""
