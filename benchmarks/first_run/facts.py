"""Facts about the machine, and the time of each phase of the first launch of a kernel.

Meanwhile other processes compile the kernels of the later steps.
"""

import os
import platform
import resource
import shutil
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import table
from benchmarks.first_run import compile_ahead
from benchmarks.first_run.row import Row
from benchmarks.gpu_cases import gpu_info, kernels, reference
from benchmarks.gpu_cases.case import Function, Provider
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, nan_like, randn
from rope_core.builds import Build, deferred_builds
from rope_core.errors import KernelNotBuilt

NUM_TOKENS = 4
COMPILE_LIMIT_S = 45.0
"""Time limit of the processes that compile the kernels."""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield facts, the phases of the first launch, and how the compilation in advance went."""
    start = time.monotonic()
    capability = gpu_info.query_nvidia_smi("compute_cap").get("compute_cap")
    processes = []
    if capability is not None and not sizes.dry_run:
        processes = compile_ahead.start(round(10 * float(str(capability))))
    yield Row(name="software", note=_format(_software()))
    yield Row(name="host", note=_format(_host()))
    if not sizes.dry_run:
        yield Row(name="gpu", note=_format(_gpu()))
    yield from _first_launch(sizes)
    if sizes.dry_run:
        count = len(compile_ahead.missing_kernels(sizes))
        yield Row(name="kernels to build in advance", note=f"{count}")
        return
    for process in processes:
        process.join(max(0.0, start + COMPILE_LIMIT_S - time.monotonic()))
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
    failed = sum(process.exitcode not in (0, None) for process in processes)
    note = f"{len(processes)} processes, {len(late)} not ready in time, {failed} failed"
    yield Row(name="kernels built in advance", us=(time.monotonic() - start) * 1e6, note=note)


def _first_launch(sizes: Sizes) -> Iterator[Row]:
    """Rotate a few tokens with an empty Triton cache: load the driver, compile, launch twice."""
    with _empty_cache():
        times = [time.perf_counter()]
        if not sizes.dry_run:
            from triton.runtime import driver

            driver.active.utils  # noqa: B018 - the attribute compiles and loads the driver
        times.append(time.perf_counter())
        xs = [randn(sizes, NUM_TOKENS, h, sizes.head_dim) for h in sizes.heads]
        positions = torch.arange(NUM_TOKENS, device=sizes.device)
        _synchronize(sizes)
        run = kernels.rotate_at(xs, nan_like(*xs), positions, frequencies(sizes), "half")
        times.append(time.perf_counter())
        _build(run)
        times.append(time.perf_counter())
        for _ in range(2):
            run()
            _synchronize(sizes)
            times.append(time.perf_counter())
    error = reference.check(Provider("ours", run, reference.rotation(xs, positions)))
    phases = "triton's driver", "the CUDA context", "the build", "the first launch", "the second"
    for phase, start, end in zip(phases, times, times[1:], strict=False):
        yield Row(name=f"first use: {phase}", us=None if sizes.dry_run else (end - start) * 1e6)
    yield Row(name="first use: the result", error=error, verdict="right")


def _build(run: Function) -> None:
    missing: dict[Hashable, Build] = {}
    try:
        with deferred_builds(missing.__setitem__):
            run()
    except KernelNotBuilt:
        for build in missing.values():
            build()


@contextmanager
def _empty_cache() -> Iterator[None]:
    previous = os.environ.get("TRITON_CACHE_DIR")
    with TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        yield
    del os.environ["TRITON_CACHE_DIR"]
    if previous is not None:
        os.environ["TRITON_CACHE_DIR"] = previous


def _software() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        **table.versions("torch", "triton"),
        "CUDA": torch.version.cuda,
        **{name: shutil.which(name) for name in ("gcc", "cc", "clang")},
        **{name: os.environ[name] for name in ("CC", "TRITON_LIBCUDA_PATH") if name in os.environ},
    }


def _host() -> dict[str, object]:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "huge pages": HUGE_PAGES.read_text().strip() if HUGE_PAGES.exists() else "none",
        "memlock": "unlimited" if limit == resource.RLIM_INFINITY else limit,
    }


def _gpu() -> dict[str, object]:
    properties = torch.cuda.get_device_properties(0)
    link = "pcie.link.gen.current", "pcie.link.width.current"
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "shared bytes of a block": properties.shared_memory_per_block_optin,
        "L2 bytes": properties.L2_cache_size,
        "memory bytes": properties.total_memory,
        "cuDNN": torch.backends.cudnn.version(),
        **gpu_info.query_nvidia_smi("driver_version", "clocks.sm", *link),
    }


def _format(facts: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _synchronize(sizes: Sizes) -> None:
    if not sizes.dry_run:
        torch.cuda.synchronize()
