"""What a history says, as tables and pages."""
