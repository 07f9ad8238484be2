"""Workloads of sliding windows, tiles and patches."""
