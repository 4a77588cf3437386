"""Host time of a call of kernels, up to the launch by the driver.

    taskset -c 0 python -m benchmarks.host_time

Needs no GPU: kernels are compiled for an absent one, and the driver's launch does nothing. Prints
the median time of each call, how many functions of Python and of C it calls, and the ratio of its
time to that with Triton's own launch path, `kernel[grid](...)`, in the same run. Checks first that
both paths pass the same arguments to the driver.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

import rope_core
from benchmarks import table
from rope_core import AttentionConfig, RopeConfig, Rotate, Rotated
from rope_core.kernels import attention, merge, rotary
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.offline import OfflineDriver

BF16 = torch.bfloat16
Run = Callable[[], object]

CALLS_PER_PATH = 40
"""Calls that are timed in a row by one launch path."""

FIRST_ARGUMENT = 9
"""Index of a kernel's first argument in a launch: after grid, stream, function, metadata, hooks."""


class Recorder(OfflineDriver):
    """An offline driver that records launches."""

    def __init__(self, capability: int) -> None:
        super().__init__(capability)
        self._launched: list[tuple[object, ...]] | None = None
        self._tensors: dict[int, int] = {}
        self.launcher_cls: Any = self._launcher

    def record(self, call: Run) -> list[tuple[object, ...]]:
        """Return the compiled kernel, the grid and the arguments of each launch of a call."""
        self._launched = launched = []
        self._tensors = {}
        call()
        self._launched = None
        return launched

    def _tensor(self, arg: Any) -> int:
        """Return the number of a tensor within the call, as addresses differ from call to call."""
        address = arg.data_ptr() if isinstance(arg, Tensor) else arg
        return self._tensors.setdefault(address, len(self._tensors))

    def _launcher(self, source: Any, metadata: object) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            if self._launched is not None:
                typed = zip(args[FIRST_ARGUMENT:], source.signature.values(), strict=True)
                recorded = [self._tensor(arg) if kind[0] == "*" else arg for arg, kind in typed]
                self._launched.append((source, args[:3], *recorded))

        return launch


@contextmanager
def tritons_own_path() -> Iterator[None]:
    """Launch by `kernel[grid](...)` within the block."""
    kept = Launcher.bind

    def bind(self: Launcher, launch: KernelLaunch) -> tuple[Any, Sequence[Any]]:
        def run(grid: int, tensors: Sequence[Any], numbers: Sequence[float]) -> None:
            options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            self.kernel[(grid,)](*tensors, *numbers, **launch.constants, **options)

        # a call may launch a kernel more than once, with other tiles
        variant: Any = "Triton's own", *launch.constants.values()
        self.built[variant] = run
        return variant, launch.tensors

    Launcher.bind = bind  # type: ignore[method-assign]
    try:
        yield
    finally:
        Launcher.bind = kept  # type: ignore[method-assign]


def cases() -> dict[str, list[Run]]:
    """Return, by name, calls that take turns; their outputs are allocated before."""
    q, k = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 8, 128, dtype=BF16)
    xs = torch.empty_like(q), torch.empty_like(k)
    outs = Rotated(*xs)
    at, inv_freq = torch.arange(4), torch.ones(64, dtype=torch.float64)
    options: dict[str, Any] = {"rotary_dim": 128, "layout": "half"}
    rotation = Rotate(q, k, RopeConfig.of(128), at)
    parts, lse = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 32)
    return {
        "rotary.rotate, 4 tokens of 32 + 8 heads of 128": [
            partial(rotary.rotate, (q, k), xs, inv_freq=inv_freq, index=at, **options)
        ],
        "rope_core.rotate, the same": [partial(rope_core.rotate, rotation, outs, "fused")],
        "merge.merge, 4 parts of 32 rows": [partial(merge.merge, parts, lse, parts[0], lse[0])],
        "attention.attend, decode of 1 sequence": attending([(1, 4096)]),
        "attention.attend, decode of 64": attending([(1, 512)] * 64),
        "attention.attend, decode of 64, other lengths each time": attending(
            *([(1, 512 - at)] * 64 for at in range(CALLS_PER_PATH))
        ),
        "attention.attend, prefill of 512": attending([(512, 512)]),
        "attention.attend, decode of 64 and prefill of 512": attending(
            [(1, 512)] * 64 + [(512, 512)]
        ),
    }


def attending(*batches: Sequence[tuple[int, int]]) -> list[Run]:
    """Return a call for each batch: queries and keys of its sequences."""
    calls: list[Run] = []
    for lengths_q, lengths_k in (zip(*batch, strict=True) for batch in batches):
        num_queries, num_keys = sum(lengths_q), sum(lengths_k)
        q, k = (torch.empty(n, h, 128, dtype=BF16) for n, h in ((num_queries, 32), (num_keys, 8)))
        tensors = q, k, k, torch.empty_like(q), torch.empty(num_queries, 32)
        lengths = lengths_q, lengths_k
        calls.append(partial(attention.attend, *tensors, AttentionConfig(), lengths=lengths))
    return calls


def check(call: Run, gpu: Recorder) -> None:
    """Compare what both paths pass to the driver."""
    ours = gpu.record(call)
    with tritons_own_path():
        tritons = gpu.record(call)
    assert ours, "nothing is launched"
    assert ours == tritons


def time_both(calls: Sequence[Run], rounds: int) -> tuple[float, float]:
    """Return the median seconds of a call, and those with Triton's own path, which take turns."""
    ours: list[float] = []
    tritons: list[float] = []
    for _ in range(rounds):
        ours += map(_seconds, calls)
        with tritons_own_path():
            calls[0]()
            tritons += map(_seconds, calls)
    return median(ours), median(tritons)


def count_functions(call: Run) -> int:
    """Return how many functions of Python and of C a call calls."""
    events: list[str] = []
    sys.setprofile(lambda frame, event, arg: events.append(event))
    try:
        call()
    finally:
        sys.setprofile(None)
    return events.count("call") + events.count("c_call")


def _seconds(call: Run) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Compare and time all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the times mean nothing")
    rounds = 1 if parser.parse_args().quick else 50
    gpu = Recorder(90)
    driver.set_active(gpu)
    table.print_machine()
    table.print_head(("call", "us", "functions", "of Triton's own path"))
    with torch.inference_mode():
        for name, calls in cases().items():
            for call in calls:
                check(call, gpu)
            ours, tritons = time_both(calls * CALLS_PER_PATH if len(calls) == 1 else calls, rounds)
            functions = count_functions(calls[0])
            table.print_row((name, ours * 1e6, functions, ours / tritons))


if __name__ == "__main__":
    main()
