"""Kubernetes: a chart that Helm installs, the pods that come of it, and the way to them."""
