"""What `benchmarks.gpu` checks and times: a file for each kind of work.

`kernels` alone knows how our kernels are called, and `other_*` how other libraries' are.
"""
