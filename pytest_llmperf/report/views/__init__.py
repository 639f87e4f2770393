"""What reports show, whatever the medium: sweeps, curves, comparisons, verdicts."""
