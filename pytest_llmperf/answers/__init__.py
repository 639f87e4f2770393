"""Texts of answers: scored after a run, and kept only where the plan asks for it."""
