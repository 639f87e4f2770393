"""What the formulas of metrics are made of: a record's times and counts, one request's and a whole window's. Pure."""
