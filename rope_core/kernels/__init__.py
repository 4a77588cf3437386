"""Triton kernels for GPUs: the only package that imports Triton; loaded at first use.

Constants of a kernel are what a model fixes (head width, layout) and the block sizes that follow
from these, so no request compiles a kernel of its own. Token counts and strides are arguments.
"""
