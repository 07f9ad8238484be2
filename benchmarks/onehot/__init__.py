"""Workloads of one-hot encodings, and of counts and sums of classes."""
