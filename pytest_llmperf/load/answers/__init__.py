"""What came back for one request, and what it means."""
