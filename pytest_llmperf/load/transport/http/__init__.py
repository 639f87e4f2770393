"""HTTP: the framing of a response, and how its body is compressed."""
