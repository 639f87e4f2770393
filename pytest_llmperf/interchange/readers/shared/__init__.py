"""The part that the readers share: imported points, statistics, tables and documents."""
