"""What a report consists of: each section with its numbers, and how terminal, JSON and HTML show them."""
