"""Steps for tests of `benchmarks.gpu_first`, one module per way to end."""
