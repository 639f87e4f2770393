"""The client's own machine: its health, priority, lateness and open files."""
