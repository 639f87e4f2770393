"""The plan: its file, its models, its schema."""
