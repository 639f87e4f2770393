"""Numbers that reports show, whatever the medium: sweeps, comparisons, verdicts."""
