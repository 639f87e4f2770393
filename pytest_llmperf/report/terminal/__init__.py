"""Tables for people, in the terminal."""
