"""The locking experiment, the benchmarks, and the demo's work: what the commands run."""
