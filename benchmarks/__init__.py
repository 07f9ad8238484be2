"""Workloads of torchext beside their peers and floors: `python -m benchmarks`."""
