"""Workloads of torchext, their peers and floors: `python -m benchmarks`."""
