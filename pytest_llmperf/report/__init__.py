"""Results to JSON, JUnit properties and terminal tables."""
