"""Launch kernels through variants that are built once and looked up by a cheap key.

`kernel[grid](...)` of Triton binds and inspects all arguments at each launch, which takes longer
than the rest of a small call. Here a variant is found by what it was compiled for: the constants,
the dtypes of the tensors, and whether their memory is aligned. It never depends on numbers.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from rope_core.builds import Build, ensure_built
from rope_core.errors import KernelFailed
from rope_core.kernels import INTERPRETED

ALIGNMENT = 16
"""Tensors at multiples of so many bytes are accessed by the widest instructions."""

MAX_VARIANTS = 512
"""Variants of one kernel in a process, so that varying requests cannot fill the memory."""

Number = int | float
Run = Callable[[int, Sequence[Any], Sequence[Number]], None]
"""Launches a variant: takes the grid, the tensors as `Launcher.bind` returns them, the numbers."""

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


class KernelLaunch(NamedTuple):
    """One launch of a kernel, whose arguments are the tensors, the numbers and the constants."""

    launcher: "Launcher"
    grid: tuple[int]
    tensors: Sequence[Tensor | None]  # on one device; the first is not None
    numbers: Sequence[Number]
    constants: Mapping[str, Any]  # in the kernel's order
    num_warps: int = 4
    num_stages: int = 3


class Launcher:
    """The variants of one kernel.

    Numbers of the kernel must have an annotation (`tl.int64`, `tl.int32` or `tl.float32`) and must
    be in its `do_not_specialize`, so that one variant serves all values.
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

    def bind(self, launch: KernelLaunch) -> tuple[Variant, Sequence[Any]]:
        """Return the variant of a launch, and its tensors as the variant takes them.

        These are addresses, or in the interpreter the tensors themselves.
        """
        _, _, tensors, _, constants, num_warps, num_stages = launch
        dtypes = tuple([None if t is None else t.dtype for t in tensors])
        first = tensors[0]
        assert first is not None, "the first tensor tells the device"
        device, address_bits = first.get_device(), 0
        args: Sequence[Any] = tensors
        if not INTERPRETED:
            args = [None if t is None else t.data_ptr() for t in tensors]
            for index in self._aligned:
                address_bits |= args[index] or 0
            if device < 0:
                device = driver.active.get_current_device()
        aligned = address_bits % ALIGNMENT == 0
        values = tuple(constants.values())
        return Variant(self._name, device, dtypes, aligned, values, num_warps, num_stages), args

    def build(self, variant: Variant) -> None:
        """Compile a variant and load it onto its device, in any thread; at most once.

        Raises:
            KernelFailed: it cannot be built. This is remembered, except for errors of the disk.
            RuntimeError: the device has too little memory.
        """
        with _building:
            if variant in self.built:
                return
            self.raise_if_failed(variant)
            try:
                self.built[variant] = self._load(variant)
            except Exception as error:
                if "out of memory" in str(error).lower():
                    raise
                reason = f"{self._name} cannot be built: {error}"
                if not isinstance(error, OSError):
                    self.failed[variant] = reason
                _log.warning("%s, for %s", reason, variant)
                raise KernelFailed(reason) from error

    def raise_if_failed(self, variant: Variant) -> None:
        """Raise KernelFailed if a missing variant is not to be built."""
        if (reason := self.failed.get(variant)) is not None:
            raise KernelFailed(reason)
        if len(self.built) >= MAX_VARIANTS:
            raise KernelFailed(f"{self._name} has {MAX_VARIANTS} variants already")

    def _load(self, variant: Variant) -> Run:
        if INTERPRETED:
            return partial(_interpret, self.kernel, variant.constants)
        on_cuda = driver.active.get_active_torch_device().type == "cuda"
        with torch.cuda.device(variant.device) if on_cuda else nullcontext():
            return _runner(self.compile(variant), variant)

    def compile(self, variant: Variant) -> Any:
        """Return the compiled kernel of a variant, for the driver's current device."""
        num_numbers = len(self.kernel.arg_names) - len(variant.dtypes) - len(variant.constants)
        # Triton takes a dtype for an aligned tensor
        tensors = [
            dtype if dtype is None or variant.aligned else _Unaligned(dtype)
            for dtype in variant.dtypes
        ]
        return self.kernel.warmup(
            *tensors,
            *[0] * num_numbers,
            *variant.constants,
            grid=(1,),
            num_warps=variant.num_warps,
            num_stages=variant.num_stages,
        )


def launch_all(launches: Sequence[KernelLaunch]) -> None:
    """Launch in this order; nothing is launched if a variant is missing.

    Raises:
        KernelNotBuilt: a variant is missing and is being built elsewhere.
        KernelFailed: a variant cannot be built.
    """
    bound = [(launch, *launch.launcher.bind(launch)) for launch in launches]
    runs = [launch.launcher.built.get(variant) for launch, variant, _ in bound]
    if None in runs:
        _build_missing([(launch.launcher, variant) for launch, variant, _ in bound])
        runs = [launch.launcher.built[variant] for launch, variant, _ in bound]
    for run, (launch, _, tensors) in zip(runs, bound, strict=True):
        assert run is not None, "built"
        run(launch.grid[0], tensors, launch.numbers)


def _build_missing(variants: Sequence[tuple[Launcher, Variant]]) -> None:
    missing: dict[Hashable, Build] = {}
    for launcher, variant in variants:
        if variant not in launcher.built:
            launcher.raise_if_failed(variant)
            missing[variant] = partial(launcher.build, variant)
    ensure_built(missing)


def _runner(compiled: Any, variant: Variant) -> Run:
    """Load a compiled kernel onto the current device, and return a function that launches it."""
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


def _interpret(
    kernel: Any,
    constants: tuple[Any, ...],
    grid: int,
    tensors: Sequence[Any],
    numbers: Sequence[Number],
) -> None:
    kernel[(grid,)](*tensors, *numbers, *constants)


class _Unaligned:
    """A stand-in for a tensor whose address is not a multiple of ALIGNMENT."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @staticmethod
    def data_ptr() -> int:
        return 1
