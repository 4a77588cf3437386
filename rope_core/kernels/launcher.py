"""Launch kernels through variants that are built once and looked up by a cheap key.

`kernel[grid](...)` of Triton binds and inspects all arguments at each launch, which takes longer
than the rest of a small call. Here a variant is found by what it was compiled for: the constants,
the dtypes of the tensors, and whether their memory is aligned. Numbers are never a part of it.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from rope_core.builds import ensure_built
from rope_core.errors import KernelFailed
from rope_core.kernels import INTERPRETED

ALIGNMENT = 16
"""Bytes that memory is aligned to where the widest accesses can be used."""

Number = int | float
Run = Callable[[int, Sequence[Any], Sequence[Number]], None]

_building = Lock()
"""Triton's compiler is not thread-safe: one build at a time in the whole process."""

_log = logging.getLogger(__name__)


class Variant(NamedTuple):
    """What a kernel is compiled for."""

    kernel: str
    device: Hashable
    dtypes: tuple[torch.dtype | None, ...]  # of the tensors, None where there is none
    aligned: bool  # all tensors whose alignment counts are at multiples of ALIGNMENT
    constants: tuple[Any, ...]
    num_warps: int
    num_stages: int


class Launch(NamedTuple):
    """One launch that is ready but for its variant, which may still have to be built."""

    launcher: "Launcher"
    variant: Variant
    grid: int
    tensors: Sequence[Any]  # addresses, or tensors for the interpreter
    numbers: Sequence[Number]


class Launcher:
    """Launches one kernel, whose arguments are tensors, numbers, and constants in this order.

    Numbers must have an annotation (`tl.int64`, `tl.int32` or `tl.float32`) and must be in the
    kernel's `do_not_specialize`, so that one variant does for all values.
    """

    def __init__(self, kernel: Any, num_tensors: int) -> None:
        self.kernel = kernel
        self.built: dict[Variant, Run] = {}
        self.failed: dict[Variant, str] = {}
        self._name: str = kernel.fn.__name__
        self._aligned: list[int] = []
        if not INTERPRETED:
            tensors, rest = kernel.params[:num_tensors], kernel.params[num_tensors:]
            numbers = [p for p in rest if not p.is_constexpr]
            assert all(p.do_not_specialize and p.annotation_type for p in numbers), self._name
            self._aligned = [p.num for p in tensors if not p.do_not_specialize_on_alignment]

    def prepare(
        self,
        grid: int,
        tensors: Sequence[Tensor | None],
        numbers: Sequence[Number],
        constants: tuple[Any, ...],
        *,
        num_warps: int = 4,
        num_stages: int = 3,
    ) -> Launch:
        """Return a launch of `grid` programs for `launch_all`.

        Args:
            grid: programs, along one axis.
            tensors: the kernel's first arguments, all on one device; the first is no None.
            numbers: the arguments that follow.
            constants: the last arguments.
            num_warps: warps of a program.
            num_stages: stages of a software pipeline.
        """
        dtypes = tuple([None if t is None else t.dtype for t in tensors])
        first = tensors[0]
        assert first is not None, "it tells the device"
        device, bits = first.get_device(), 0
        args: Sequence[Any] = tensors
        if not INTERPRETED:
            args = [None if t is None else t.data_ptr() for t in tensors]
            for at in self._aligned:
                bits |= args[at] or 0
            if device < 0:
                device = driver.active.get_current_device()
        aligned = bits % ALIGNMENT == 0
        variant = Variant(self._name, device, dtypes, aligned, constants, num_warps, num_stages)
        return Launch(self, variant, grid, args, numbers)

    def build(self, variant: Variant) -> None:
        """Compile a variant and load it onto its device, in any thread; at most once.

        A failure is remembered and logged. Only a lack of memory is raised instead, as it passes.
        """
        with _building:
            if variant in self.built or variant in self.failed:
                return
            try:
                self.built[variant] = self._compile(variant)
            except Exception as error:
                if "out of memory" in str(error).lower():
                    raise
                self.failed[variant] = f"{self._name} cannot be built: {error}"
                _log.warning("%s, for %s", self.failed[variant], variant)

    def _compile(self, variant: Variant) -> Run:
        if INTERPRETED:
            return partial(_interpret, self.kernel, variant.constants)
        num_numbers = len(self.kernel.arg_names) - len(variant.dtypes) - len(variant.constants)
        stand_in: Callable[[Any], Any] = _same if variant.aligned else _Unaligned
        tensors = [None if dtype is None else stand_in(dtype) for dtype in variant.dtypes]
        on_cuda = driver.active.get_active_torch_device().type == "cuda"
        with torch.cuda.device(variant.device) if on_cuda else nullcontext():
            compiled = self.kernel.warmup(
                *tensors,
                *[0] * num_numbers,
                *variant.constants,
                grid=(1,),
                num_warps=variant.num_warps,
                num_stages=variant.num_stages,
            )
            return _runner(compiled, variant)


def launch_all(launches: Sequence[Launch]) -> None:
    """Launch in this order; nothing is launched where a variant is missing.

    Raises:
        KernelNotBuilt: a variant is missing and is being built elsewhere.
        KernelFailed: a variant cannot be built.
    """
    runs = [launch.launcher.built.get(launch.variant) for launch in launches]
    if None in runs:
        _ensure_built(launches)
        runs = [launch.launcher.built[launch.variant] for launch in launches]
    for run, (_, _, grid, tensors, numbers) in zip(runs, launches, strict=True):
        run(grid, tensors, numbers)  # type: ignore[misc]


def _ensure_built(launches: Sequence[Launch]) -> None:
    _raise_failed(launches)
    ensure_built(
        {
            launch.variant: partial(launch.launcher.build, launch.variant)
            for launch in launches
            if launch.variant not in launch.launcher.built
        }
    )
    _raise_failed(launches)


def _raise_failed(launches: Sequence[Launch]) -> None:
    for launch in launches:
        if (reason := launch.launcher.failed.get(launch.variant)) is not None:
            raise KernelFailed(reason)


def _runner(compiled: Any, variant: Variant) -> Run:
    """Load a compiled kernel onto the current device; return what launches it."""
    launch = compiled.run  # loads the module
    device, constants = variant.device, variant.constants
    function, metadata = compiled.function, compiled.packed_metadata
    get_stream, runtime = driver.active.get_current_stream, knobs.runtime

    def run(grid: int, tensors: Sequence[Any], numbers: Sequence[Number]) -> None:
        stream = get_stream(device)
        args = *tensors, *numbers, *constants
        hooks = runtime.launch_enter_hook, runtime.launch_exit_hook
        of_hooks = compiled.launch_metadata((grid, 1, 1), stream, *args)
        launch(grid, 1, 1, stream, function, metadata, of_hooks, *hooks, *args)

    return run


def _interpret(
    kernel: Any,
    constants: tuple[Any, ...],
    grid: int,
    tensors: Sequence[Any],
    numbers: Sequence[Number],
) -> None:
    kernel[(grid,)](*tensors, *numbers, *constants)


def _same(dtype: torch.dtype) -> torch.dtype:
    """Return what Triton takes for an aligned tensor of a dtype."""
    return dtype


class _Unaligned:
    """Stands for a tensor at an address that is no multiple of ALIGNMENT."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @staticmethod
    def data_ptr() -> int:
        return 1
