"""Cases that `benchmarks.gpu` checks and times, one module per kind of work.

Only `kernels` calls our kernels, and only `library_*` call other libraries.
"""
