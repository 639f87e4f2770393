"""From request records to metrics and a result, and whether these can be trusted."""
