"""How a search chooses what to try next, and which is best. Pure."""
