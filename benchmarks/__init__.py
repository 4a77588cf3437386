"""How fast, over which floor: `python -m benchmarks.core` and `python -m benchmarks.service`.

A number is printed after the answer it belongs to has been compared with `oracle`, and beside the
floor it is measured against in the same run.
"""
