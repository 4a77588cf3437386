"""Kernels for GPUs, written in Triton: the only package that imports it; loaded when first needed.

A kernel's constants are what a model fixes (widths, layout) and block sizes that follow from it,
so that no request is the first of its kind to be compiled for. Tokens and strides are arguments.
"""

from triton import knobs
from triton.runtime import driver

INTERPRETED: bool = knobs.runtime.interpret
"""Whether kernels run on the CPU, in triton's interpreter: where TRITON_INTERPRET was 1."""

if INTERPRETED:
    from tests.kernels.interpreter import put_right

    put_right()


def device_type() -> str:
    """Return where the tensors of kernels must be: "cpu" for the interpreter or a stand-in driver.

    "cuda" also where there is no GPU, so that nothing runs.
    """
    if INTERPRETED:
        return "cpu"
    try:
        found: str = driver.active.get_active_torch_device().type
    except RuntimeError:  # no driver finds its device
        return "cuda"
    return found
