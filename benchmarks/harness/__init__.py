"""What all rows of the benchmarks share: what a workload is, how it is timed, and what is made of the times."""
