"""Steps of the first run on a GPU, one module each: `rows(sizes)` yields the rows of a table.

`step_process` runs each step in its own process. Steps reuse the cases of `gpu_cases` where
`benchmarks.gpu` measures the same.
"""
