"""Tables and pages of a history."""
