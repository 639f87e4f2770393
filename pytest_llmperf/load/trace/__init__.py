"""The trace of a load: what is sent and when, made before the run."""
