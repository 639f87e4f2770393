"""What the machine is: GPUs, processor, versions."""
