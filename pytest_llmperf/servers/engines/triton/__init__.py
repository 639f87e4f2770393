"""Triton Inference Server: the model repository that a plan asks for, and the command that serves it."""
