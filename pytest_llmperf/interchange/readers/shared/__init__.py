"""What the readers share: what was imported, its statistics, tables and documents."""
