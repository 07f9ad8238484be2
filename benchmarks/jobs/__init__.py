"""Whole jobs next to the usual ways to write them: `python -m benchmarks.jobs`."""

from ..harness.workload import load

# Modules of workloads register their rows when they are imported. Here it is in the usual order, since the jobs import
# some of them.
load()
