"""What comes from outside and what goes there: names of files, files, foreign text, secrets. Standard library alone."""
