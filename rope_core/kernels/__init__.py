"""Kernels for GPUs, written in Triton: the only package that imports it, and nothing loads it yet.

A kernel's constants are what a model fixes (widths, layout) and block sizes that follow from it,
so that no request is the first of its kind to be compiled for. Tokens and strides are arguments.
"""
