"""A Gonka MLNode: vLLM instances that a node starts when its REST API is asked to."""
