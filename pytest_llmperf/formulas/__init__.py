"""Parts of the formulas of metrics: a record's times and counts, one request's and a whole window's. Pure."""
