"""Calls that take seconds run in a process of their own: no lock of Python delays rotations.

`queue` is the queue before the worker, `process` starts and stops it, `__main__` is the worker.
"""
