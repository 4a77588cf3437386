"""Where kernels run."""

from triton import knobs
from triton.runtime import driver

INTERPRETED: bool = knobs.runtime.interpret
"""Whether kernels run on the CPU in Triton's interpreter (TRITON_INTERPRET=1)."""


def device_type() -> str:
    """Return the device type that kernel arguments must have.

    "cpu" for the interpreter and for the offline driver; "cuda" otherwise, with or without a GPU.
    """
    if INTERPRETED:
        return "cpu"
    try:
        return str(driver.active.get_active_torch_device().type)
    except RuntimeError:  # no driver finds its device
        return "cuda"
