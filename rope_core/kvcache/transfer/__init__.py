"""Export caches as named tensors, and make caches of what was exported."""
