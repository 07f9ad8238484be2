"""The parts that all benchmarks share: the definition of a workload, its measurement, and reports."""
