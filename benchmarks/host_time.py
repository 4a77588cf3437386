"""Time that the host takes for a call of kernels, until the driver would launch them.

    taskset -c 0 python -m benchmarks.host_time

Needs no GPU: kernels are compiled for one that is not there, and the driver's launch does nothing.
Prints for each call its median time, and what share that is of the time that it takes with
Triton's own launch path, `kernel[grid](...)`, in the same run. Both pass the same to the driver,
which is compared first.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

import rope_core
from benchmarks import table
from rope_core import RopeConfig, Rotate, Rotated
from rope_core.kernels import merge, rotary
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.offline import OfflineDriver

BF16 = torch.bfloat16
Run = Callable[[], object]

FIRST_ARGUMENT = 9
"""Of a kernel, where Triton launches it: behind the grid, the stream, the function and hooks."""


class Recorder(OfflineDriver):
    """Keeps what the driver is asked to launch while a call is recorded."""

    def __init__(self, capability: int) -> None:
        super().__init__(capability)
        self._launched: list[tuple[object, ...]] | None = None
        self.launcher_cls: Any = self._launcher

    def record(self, call: Run) -> list[tuple[object, ...]]:
        """Return the compiled kernel, the grid and the arguments of each launch of a call."""
        self._launched = launched = []
        call()
        self._launched = None
        return launched

    def _launcher(self, source: object, metadata: object) -> Callable[..., None]:
        def launch(*given: Any) -> None:
            if self._launched is not None:
                grid, args = given[:3], given[FIRST_ARGUMENT:]
                args = [arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in args]
                self._launched.append((source, grid, *args))

        return launch


@contextmanager
def tritons_own_path() -> Iterator[None]:
    """Launch by `kernel[grid](...)` within the block."""
    kept = Launcher.bind

    def bind(self: Launcher, launch: KernelLaunch) -> tuple[Any, Sequence[Any]]:
        def run(grid: int, tensors: Sequence[Any], numbers: Sequence[float]) -> None:
            options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            self.kernel[(grid,)](*tensors, *numbers, **launch.constants, **options)

        self.built[variant] = run
        return variant, launch.tensors

    variant: Any = "Triton's own"
    Launcher.bind = bind  # type: ignore[method-assign]
    try:
        yield
    finally:
        Launcher.bind = kept  # type: ignore[method-assign]


def cases() -> dict[str, Run]:
    """Return calls by what they are: nothing is computed, and outs are made before."""
    q, k = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 8, 128, dtype=BF16)
    outs = Rotated(torch.empty_like(q), torch.empty_like(k))
    at, inv_freq = torch.arange(4), torch.ones(64, dtype=torch.float64)
    rotation = Rotate(q, k, RopeConfig.of(128), at)
    parts, lse = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 32)
    return {
        "rotary.rotate_at, 4 tokens of 32 + 8 heads of 128": lambda: rotary.rotate_at(
            (q, k), (outs.q, outs.k), at, inv_freq, rotary_dim=128, layout="half"
        ),
        "rope_core.rotate, the same": lambda: rope_core.rotate(rotation, outs, "fused"),
        "merge.merge, 4 parts of 32 rows": lambda: merge.merge(parts, lse, parts[0], lse[0]),
    }


def check(call: Run, gpu: Recorder) -> None:
    """Compare what both paths pass to the driver."""
    ours = gpu.record(call)
    with tritons_own_path():
        tritons = gpu.record(call)
    assert ours, "nothing is launched"
    assert ours == tritons


def time_both(call: Run, rounds: int, count: int) -> tuple[float, float]:
    """Return the median seconds of a call, and those with Triton's own path, which take turns."""
    ours, tritons = [], []
    for _ in range(rounds):
        ours.append(_sample(call, count))
        with tritons_own_path():
            call()
            tritons.append(_sample(call, count))
    return median(ours), median(tritons)


def _sample(call: Run, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Compare and time all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the times mean nothing")
    rounds, count = (1, 1) if parser.parse_args().quick else (101, 20)
    gpu = Recorder(90)
    driver.set_active(gpu)
    table.print_machine()
    table.print_head(("call", "us", "of Triton's own path"))
    with torch.inference_mode():
        for name, call in cases().items():
            check(call, gpu)
            ours, tritons = time_both(call, rounds, count)
            table.print_row((name, ours * 1e6, ours / tritons))


if __name__ == "__main__":
    main()
