"""Build the kernels of the other steps in advance, on the CPUs, so that the GPU does not wait.

All processes share Triton's cache: the other steps load kernels that were built here.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess

import torch

from benchmarks.first_run import answers, floors, speeds, tiles
from benchmarks.gpu_cases.case import Run
from benchmarks.gpu_cases.sizes import DRY, FULL, Sizes
from rope_core.builds import Build, deferred_builds
from rope_core.errors import KernelNotBuilt

MAX_PROCESSES = 12
SMALL = replace(
    DRY,
    heads=FULL.heads,
    head_dim=FULL.head_dim,
    widths=FULL.widths,
    hidden=1024,
    prompts=(200,),
    masked=200,
    appended=(32,),
    long=1100,
)
"""The models of FULL with few tokens, but enough to launch the same kernels."""


def start(capability: int) -> list[BaseProcess]:
    """Start to build all kernels for a compute capability (90 is 9.0), before CUDA is used here."""
    count = max(1, min(MAX_PROCESSES, (os.cpu_count() or 1) - 2))
    context = multiprocessing.get_context("fork")  # torch and triton are imported
    processes = [
        context.Process(target=_build_share, args=(capability, index, count))
        for index in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def missing_kernels(sizes: Sizes) -> dict[Hashable, Build]:
    """Return what builds each kernel that the calls of the other steps launch."""
    missing: dict[Hashable, Build] = {}
    with torch.inference_mode(), deferred_builds(missing.__setitem__):
        for make in _calls(sizes):
            try:
                make()()
            except KernelNotBuilt:
                continue
            except Exception as why:  # the step that makes this call reports it
                print(f"not prepared: {type(why).__name__}: {why}", file=sys.stderr)
    return missing


def _build_share(capability: int, index: int, count: int) -> None:
    from triton.runtime import driver

    from rope_core.kernels.offline import OfflineDriver

    driver.set_active(OfflineDriver(capability))
    torch.set_num_threads(1)
    for build in [*missing_kernels(SMALL).values()][index::count]:
        try:
            build()
        except Exception as why:  # go on with the other kernels
            print(f"not built in advance: {type(why).__name__}: {why}", file=sys.stderr)


def _calls(sizes: Sizes) -> Iterator[Callable[[], Run]]:
    yield from (lambda run=run: run for run in floors.launches(sizes).values())
    for _, group in answers.groups(sizes):
        yield from (lambda make=make: make().run for make in group.values())
    for _, batch, alone in answers.batches(sizes):
        yield from (lambda run=run: run for run in (batch, *alone))
    for cases in (speeds.cases, tiles.cases):
        yield from (lambda make=make: make().own.run for _, make in cases(sizes))
