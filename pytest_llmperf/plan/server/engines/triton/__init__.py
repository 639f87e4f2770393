"""What a plan says of a Triton Inference Server and of the models in its repository."""
