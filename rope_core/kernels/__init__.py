"""Kernels in Triton. Nothing imports this package, and Triton with it, before it is needed."""
