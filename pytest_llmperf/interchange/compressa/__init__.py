"""compressa-perf: its files of experiments, and its database, read and written."""
