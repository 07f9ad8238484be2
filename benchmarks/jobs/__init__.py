"""Real jobs next to the way people write them: `python -m benchmarks.jobs`."""
