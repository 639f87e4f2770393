"""The part of a plan that configures a Triton Inference Server and the models in its repository."""
