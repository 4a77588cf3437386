"""The steps of the first run on a GPU, one file each: `rows(sizes)` yields the rows of a table.

A step runs in a process of its own, which `child` starts it in. What is checked and timed comes
from `gpu_cases` where `benchmarks.gpu` measures the same.
"""
