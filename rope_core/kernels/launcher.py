"""Launch kernels through variants that are built once and looked up by a cheap key.

`kernel[grid](...)` of Triton binds and inspects all arguments at each launch, which takes longer
than the rest of a small call. The key here is what a variant is compiled for: the constants, the
dtypes of the tensors, and whether their memory is aligned. Numbers are not part of the key.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from torch import Tensor
from triton.runtime import driver

from rope_core.builds import ensure_built
from rope_core.errors import KernelFailed
from rope_core.kernels.runtime import INTERPRETED
from rope_core.kernels.variant import Number, Run, Variant, load_variant

ALIGNMENT = 16
"""Tensors at multiples of this many bytes are accessed by the widest instructions."""

MAX_VARIANTS = 512
"""Variants of one kernel in a process, so that varying requests cannot fill the memory."""

_build_lock = Lock()
"""Triton's compiler is not thread-safe: one build at a time in the whole process."""

_log = logging.getLogger(__name__)


class KernelLaunch(NamedTuple):
    """One launch of a kernel, whose arguments are the tensors, the numbers and the constants."""

    launcher: "Launcher"
    grid: tuple[int]
    tensors: Sequence[Tensor | None]  # on one device; the first is not None
    numbers: Sequence[Number]
    constants: Mapping[str, Any]  # in the kernel's order
    num_warps: int = 4
    num_stages: int = 3


class LaunchPlan(NamedTuple):
    """Arguments of a launch that follow from shapes alone, so that they can be cached."""

    grid: tuple[int]  # (0,) where there is nothing to do
    numbers: tuple[int, ...]
    constants: Mapping[str, Any]


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
        assert first is not None, "its device is that of the launch"
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
        with _build_lock:
            if variant in self.built:
                return
            self.raise_if_failed(variant)
            try:
                self.built[variant] = load_variant(self.kernel, variant)
            except Exception as error:
                if "out of memory" in str(error).lower():
                    raise
                reason = f"{self._name} cannot be built: {error}"
                if not isinstance(error, OSError):
                    self.failed[variant] = reason
                _log.warning("%s, for %s", reason, variant)
                raise KernelFailed(reason) from error

    def raise_if_failed(self, variant: Variant) -> None:
        """Raise KernelFailed if a missing variant cannot be built."""
        if (reason := self.failed.get(variant)) is not None:
            raise KernelFailed(reason)
        if len(self.built) >= MAX_VARIANTS:
            raise KernelFailed(f"{self._name} has {MAX_VARIANTS} variants already")


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
    missing = [pair for pair in variants if pair[1] not in pair[0].built]
    for launcher, variant in missing:
        launcher.raise_if_failed(variant)
    ensure_built({variant: partial(launcher.build, variant) for launcher, variant in missing})
