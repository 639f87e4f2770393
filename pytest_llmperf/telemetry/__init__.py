"""Facts of machine and server: GPUs, processor, versions, and samples during a run."""
