"""Progress while it runs: the line that is shown, and how long the rest will take."""
