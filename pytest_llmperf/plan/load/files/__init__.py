"""The files that loads name: data sets and traces."""
