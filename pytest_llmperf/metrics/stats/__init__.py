"""Statistics of runs: estimates, margins, compliance with a limit, histograms."""
