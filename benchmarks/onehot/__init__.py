"""Workloads of one-hot encodings, and of counts and sums of classes."""

FIRST = ("one_hot", "multi_hot", "mixup", "class_sums")
"""Modules whose rows come first; those of the others follow by name."""
