"""TensorRT-LLM in steps: fetch, quantise or convert, build, fill Triton's templates, serve."""
