"""Compile the kernels of the other steps in advance, on the CPUs, so that the GPU does not wait.

All processes share Triton's cache: the other steps load kernels that were compiled here.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess

import torch

from benchmarks.first_run import answers, floors, speeds, tiles
from benchmarks.gpu_cases.case import Function
from benchmarks.gpu_cases.sizes import DRY_RUN, FULL, Sizes
from rope_core.builds import Build, deferred_builds
from rope_core.errors import KernelNotBuilt

MAX_PROCESSES = 12
SMALL = replace(
    DRY_RUN,
    heads=FULL.heads,
    head_dim=FULL.head_dim,
    head_dims=FULL.head_dims,
    hidden_size=1024,
    prompt_lengths=(200,),
    masked_length=200,
    append_queries=(32,),
    long_keys=1100,
)
"""The head sizes of FULL with few tokens, but enough to launch the same kernels."""


def start(capability: int) -> list[BaseProcess]:
    """Start processes that compile all kernels for a compute capability (90 is 9.0).

    Call it before this process initializes CUDA: the processes are forks.
    """
    num_processes = max(1, min(MAX_PROCESSES, (os.cpu_count() or 1) - 2))
    context = multiprocessing.get_context("fork")  # inherits the imported torch and triton
    processes = [
        context.Process(target=_build_share, args=(capability, index, num_processes))
        for index in range(num_processes)
    ]
    for process in processes:
        process.start()
    return processes


def missing_kernels(sizes: Sizes) -> dict[Hashable, Build]:
    """Return the builds of all kernels that the other steps launch and that are not compiled."""
    missing: dict[Hashable, Build] = {}
    with torch.inference_mode(), deferred_builds(missing.__setitem__):
        for factory in _calls(sizes):
            try:
                factory()()
            except KernelNotBuilt:
                continue
            except Exception as exc:  # the step that makes this call reports it
                print(f"not prepared: {type(exc).__name__}: {exc}", file=sys.stderr)
    return missing


def _build_share(capability: int, index: int, count: int) -> None:
    from triton.runtime import driver

    from rope_core.kernels.offline import OfflineDriver

    driver.set_active(OfflineDriver(capability))
    torch.set_num_threads(1)
    for build in [*missing_kernels(SMALL).values()][index::count]:
        try:
            build()
        except Exception as exc:  # go on with the other kernels
            print(f"not built in advance: {type(exc).__name__}: {exc}", file=sys.stderr)


def _calls(sizes: Sizes) -> Iterator[Callable[[], Function]]:
    yield from (lambda run=run: run for run in floors.launches(sizes).values())
    for _, group in answers.groups(sizes):
        yield from (lambda f=factory: f().run for factory in group.values())
    for _, batch, singles in answers.batches(sizes):
        yield from (lambda run=run: run for run in (batch, *singles))
    for cases in (speeds.cases, tiles.cases):
        yield from (lambda f=factory: f().ours.run for _, factory in cases(sizes))
