"""Other servers with the same torch function: `python -m benchmarks.peers`."""
