"""Variants of a kernel: what a kernel is compiled for, compiling it, and loading it."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from triton import knobs
from triton.runtime import driver

from rope_core.kernels.runtime import INTERPRETED

Number = int | float
Run = Callable[[int, Sequence[Any], Sequence[Number]], None]
"""Launches a variant: takes the grid, the tensors as `Launcher.bind` returns them, the numbers."""


class Variant(NamedTuple):
    """What a kernel is compiled for."""

    kernel: str
    device: Hashable
    dtypes: tuple[torch.dtype | None, ...]  # of the tensors, None where there is none
    aligned: bool  # whether all tensors whose alignment counts are at multiples of 16 bytes
    constants: tuple[Any, ...]
    num_warps: int
    num_stages: int


def load_variant(kernel: Any, variant: Variant) -> Run:
    """Compile a variant of a kernel, load it onto its device, and return what launches it."""
    if INTERPRETED:
        return lambda grid, tensors, numbers: kernel[(grid,)](
            *tensors, *numbers, *variant.constants
        )
    on_cuda = driver.active.get_active_torch_device().type == "cuda"
    with torch.cuda.device(variant.device) if on_cuda else nullcontext():
        return _runner(compile_variant(kernel, variant), variant)


def compile_variant(kernel: Any, variant: Variant) -> Any:
    """Return the compiled kernel of a variant, for the driver's current device."""
    num_numbers = len(kernel.arg_names) - len(variant.dtypes) - len(variant.constants)
    tensors: Sequence[Any] = variant.dtypes  # Triton takes a dtype for an aligned tensor
    if not variant.aligned:
        tensors = [
            None if dtype is None else SimpleNamespace(dtype=dtype, data_ptr=lambda: 1)
            for dtype in variant.dtypes
        ]
    return kernel.warmup(
        *tensors,
        *[0] * num_numbers,
        *variant.constants,
        grid=(1,),
        num_warps=variant.num_warps,
        num_stages=variant.num_stages,
    )


def _runner(compiled: Any, variant: Variant) -> Run:
    launch = compiled.run  # loads the module
    device, constants = variant.device, variant.constants
    function, metadata = compiled.function, compiled.packed_metadata
    get_stream, runtime = driver.active.get_current_stream, knobs.runtime

    def run(grid: int, tensors: Sequence[Any], numbers: Sequence[Number]) -> None:
        stream = get_stream(device)
        args = *tensors, *numbers, *constants
        hooks = runtime.launch_enter_hook, runtime.launch_exit_hook
        hook_metadata = compiled.launch_metadata((grid, 1, 1), stream, *args)
        launch(grid, 1, 1, stream, function, metadata, hook_metadata, *hooks, *args)

    return run
