"""Benchmarks: `python -m benchmarks.core`, `.service`, `.peers`, `.protocol`, `.gpu`, `.gpu_first`.

Every result is compared with float64 before it is timed, and every time is printed beside a floor
that was measured in the same run. A floor is the time of simpler work of the same size, such as a
copy of the same bytes.
"""
