"""Server processes: from a configuration to a URL that has answered its first request, and back to nothing."""
