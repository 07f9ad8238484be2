"""Workloads of one-hot encodings, and of counts, sums, extremes and overlaps of classes."""

FIRST = ("one_hot", "multi_hot", "mixup", "class_sums")
"""Modules whose rows come first; those of other modules follow in alphabetical order."""
