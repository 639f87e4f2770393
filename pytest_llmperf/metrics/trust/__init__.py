"""Whether a run's numbers can be trusted: validity, stability, saturation, remarks."""
