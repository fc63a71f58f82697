"""The locking experiment, the benchmarks, the demo, and the data that they use."""
