"""Host time of calls of our kernels, up to the launch by the driver.

    taskset -c 0 python -m benchmarks.host_time

Needs no GPU: kernels are compiled for a GPU that is not there, and the launch by the driver does
nothing. Prints the median time of each call, the number of Python and C functions that it calls,
and the ratio of its time to the time with Triton's launch path, `kernel[grid](...)`, in the same
run. First checks that both paths pass the same arguments to the driver.
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
Function = Callable[[], object]

CALLS_PER_PATH = 40
"""Number of calls in a row with one launch path."""

FIRST_ARGUMENT = 9
"""Index of the kernel's first argument in a launch, after grid, stream, function and others."""


class Recorder(OfflineDriver):
    """An offline driver that records launches."""

    def __init__(self, capability: int) -> None:
        super().__init__(capability)
        self._launches: list[tuple[object, ...]] | None = None
        self._tensor_numbers: dict[int, int] = {}
        self.launcher_cls: Any = self._launcher

    def record(self, call: Function) -> list[tuple[object, ...]]:
        """Return the compiled kernel, the grid and the arguments of each launch of a call."""
        self._launches = launches = []
        self._tensor_numbers = {}
        call()
        self._launches = None
        return launches

    def _tensor_number(self, arg: Any) -> int:
        """Return the index of a tensor within the call; addresses differ from call to call."""
        address = arg.data_ptr() if isinstance(arg, Tensor) else arg
        return self._tensor_numbers.setdefault(address, len(self._tensor_numbers))

    def _launcher(self, source: Any, metadata: object) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            if self._launches is not None:
                typed = zip(args[FIRST_ARGUMENT:], source.signature.values(), strict=True)
                recorded = [
                    self._tensor_number(arg) if kind[0] == "*" else arg for arg, kind in typed
                ]
                self._launches.append((source, args[:3], *recorded))

        return launch


@contextmanager
def triton_launch_path() -> Iterator[None]:
    """Launch with `kernel[grid](...)` in the `with` block."""
    our_bind = Launcher.bind

    def bind(self: Launcher, launch: KernelLaunch) -> tuple[Any, Sequence[Any]]:
        def run(grid: int, tensors: Sequence[Any], numbers: Sequence[float]) -> None:
            options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            self.kernel[(grid,)](*tensors, *numbers, **launch.constants, **options)

        # a call may launch a kernel more than once, with other tiles
        variant: Any = "Triton", *launch.constants.values()
        self.built[variant] = run
        return variant, launch.tensors

    Launcher.bind = bind  # type: ignore[method-assign]
    try:
        yield
    finally:
        Launcher.bind = our_bind  # type: ignore[method-assign]


def cases() -> dict[str, list[Function]]:
    """Return the calls of each case by name. A case with several calls alternates between them."""
    q, k = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 8, 128, dtype=BF16)
    xs = torch.empty_like(q), torch.empty_like(k)
    outs = Rotated(*xs)
    positions, inv_freq = torch.arange(4), torch.ones(64, dtype=torch.float64)
    options: dict[str, Any] = {"rotary_dim": 128, "layout": "half"}
    rotation = Rotate(q, k, RopeConfig.of(128), positions)
    parts, lse = torch.zeros(4, 32, 128, dtype=BF16), torch.zeros(4, 32)
    return {
        "rotary.rotate, 4 tokens of 32 + 8 heads of 128": [
            partial(rotary.rotate, (q, k), xs, inv_freq=inv_freq, index=positions, **options)
        ],
        "rope_core.rotate, 4 tokens of 32 + 8 heads of 128": [
            partial(rope_core.rotate, rotation, outs, "fused")
        ],
        "merge.merge, 4 parts of 32 rows": [partial(merge.merge, parts, lse, parts[0], lse[0])],
        "attention.attend, decode of 1 sequence": attend_calls([(1, 4096)]),
        "attention.attend, decode of 64": attend_calls([(1, 512)] * 64),
        "attention.attend, decode of 64, lengths change per call": attend_calls(
            *([(1, 512 - i)] * 64 for i in range(CALLS_PER_PATH))
        ),
        "attention.attend, prefill of 512": attend_calls([(512, 512)]),
        "attention.attend, decode of 64 and prefill of 512": attend_calls(
            [(1, 512)] * 64 + [(512, 512)]
        ),
    }


def attend_calls(*batches: Sequence[tuple[int, int]]) -> list[Function]:
    """Return a call for each batch. A batch is the number of queries and keys of each sequence."""
    calls: list[Function] = []
    for lengths_q, lengths_k in (zip(*batch, strict=True) for batch in batches):
        num_queries, num_keys = sum(lengths_q), sum(lengths_k)
        q, k = (torch.empty(n, h, 128, dtype=BF16) for n, h in ((num_queries, 32), (num_keys, 8)))
        tensors = q, k, k, torch.empty_like(q), torch.empty(num_queries, 32)
        lengths = lengths_q, lengths_k
        calls.append(partial(attention.attend, *tensors, AttentionConfig(), lengths=lengths))
    return calls


def check(call: Function, recorder: Recorder) -> None:
    """Check that both launch paths pass the same arguments to the driver."""
    ours = recorder.record(call)
    with triton_launch_path():
        triton = recorder.record(call)
    assert ours, "the call launches no kernel"
    assert ours == triton


def time_both(calls: Sequence[Function], rounds: int) -> tuple[float, float]:
    """Return the median seconds of a call with our launch path and with Triton's, interleaved."""
    ours: list[float] = []
    triton: list[float] = []
    for _ in range(rounds):
        ours += map(_seconds, calls)
        with triton_launch_path():
            calls[0]()
            triton += map(_seconds, calls)
    return median(ours), median(triton)


def count_functions(call: Function) -> int:
    """Return the number of Python and C functions that a call calls."""
    events: list[str] = []
    sys.setprofile(lambda frame, event, arg: events.append(event))
    try:
        call()
    finally:
        sys.setprofile(None)
    return events.count("call") + events.count("c_call")


def _seconds(call: Function) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Check and time all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round; times mean nothing")
    rounds = 1 if parser.parse_args().quick else 50
    recorder = Recorder(90)
    driver.set_active(recorder)
    table.print_machine()
    table.print_header(("call", "us", "functions", "x Triton's launch path"))
    with torch.inference_mode():
        for name, calls in cases().items():
            for call in calls:
                check(call, recorder)
            ours, triton = time_both(calls * CALLS_PER_PATH if len(calls) == 1 else calls, rounds)
            functions = count_functions(calls[0])
            table.print_row((name, ours * 1e6, functions, ours / triton))


if __name__ == "__main__":
    main()
