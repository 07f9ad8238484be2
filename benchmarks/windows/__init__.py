"""Workloads of sliding windows, tiles and patches."""

FIRST = ("unfold", "sliding")
"""Modules whose rows come first; those of other modules follow in alphabetical order."""
