"""Verdicts: absolute limits (sla), change against the past (regression), and where the past is kept (baselines)."""
