"""From the events of an answer to facts: what it said, which counts are believed, whether it is whole."""
