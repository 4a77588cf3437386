"""Where compiled kernels come from.

`builder` compiles missing kernels on a thread beside requests. `prebuild` compiles kernels for the
image, and `triton_cache` finds them there. `warm_up_calls` are calls that need all kernels of a
model.
"""
