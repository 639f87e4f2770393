"""The history: every session that was measured, in one SQLite file."""
