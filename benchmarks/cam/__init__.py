"""Workloads of class activation maps."""
