"""Everything that crosses the process's boundary: file names, files, foreign text, secrets. Standard library alone."""
