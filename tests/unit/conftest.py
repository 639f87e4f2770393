"""Hypothesis for all unit tests: on a busy machine, slow examples and slow making of them are no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("unit", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
