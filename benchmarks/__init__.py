"""What pruning costs and saves, measured: `python -m benchmarks --help`, in the root of a checkout."""
