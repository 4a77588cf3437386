"""Compile the kernels that models need for GPUs that this machine does not have.

    TRITON_CACHE_DIR=/opt/rope/triton python -m service.kernel_builds.prebuild

The build of the image runs this. The kernels are stored under the keys of a run on such a GPU.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import chain, product
from multiprocessing import get_context
from typing import Any

from triton import knobs
from triton.runtime import driver

import rope_core
from rope_core import Call, NoBackend
from rope_core.kernels.offline import MAX_SHARED_MEM, OfflineDriver
from service.kernel_builds.warm_up_calls import usual_calls
from service.settings import parse_shapes

Shape = tuple[int, int, int]
"""heads, kv_heads, head_dim"""

SHAPES = "32x8x128,28x4x128,32x2x128,16x16x64,12x12x64,8x4x256,16x16x256,4x1x256,32x32x96,32x32x80"
"""Shapes of models: of each usual head width, the numbers of heads that need different kernels."""

RUNS: dict[type[Call], Callable[..., Any]] = {
    rope_core.Rotate: rope_core.rotate,
    rope_core.Attend: rope_core.attend,
    rope_core.Shift: rope_core.shift,
    rope_core.Merge: rope_core.merge,
}
"""The function that runs each kind of call. `CosSin` has no kernel."""


def main() -> None:
    """Compile for all capabilities and shapes, in one process per CPU."""
    parser = ArgumentParser(prog="python -m service.kernel_builds.prebuild", description=__doc__)
    targets = list(MAX_SHARED_MEM)
    parser.add_argument("--targets", type=int, nargs="+", choices=targets, default=targets)
    parser.add_argument("--shapes", type=parse_shapes, default=SHAPES)
    arguments = parser.parse_args()
    # one job for all shapes of a width, as they share most kernels
    widths: dict[int, list[Shape]] = {}
    for shape in arguments.shapes:
        widths.setdefault(shape[2], []).append(shape)
    jobs = list(product(widths.values(), arguments.targets))
    started = time.monotonic()
    # a process for each job: in one process, Triton would reuse kernels of another target
    with ProcessPoolExecutor(mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        built = pool.map(prebuild, *zip(*jobs, strict=True))
        for (shapes, target), num_built in zip(jobs, built, strict=True):
            seconds, width = time.monotonic() - started, shapes[0][2]
            sys.stdout.write(f"sm_{target}, {width}: {num_built} kernels after {seconds:.0f} s\n")
            sys.stdout.flush()


def prebuild(shapes: Sequence[Shape], target: int) -> int:
    """Compile the usual kernels of some shapes for one GPU; return how many were new.

    Args:
        shapes: shapes of one width.
        target: ten times the compute capability.
    """
    compiled = []
    knobs.compilation.listener = lambda *, cache_hit, **_: compiled.append(not cache_hit)
    driver.set_active(OfflineDriver(target))
    for call in chain.from_iterable(usual_calls(*shape) for shape in shapes):
        if (run := RUNS.get(type(call))) is not None:
            with suppress(NoBackend):
                run(call, backend="fused")
    return sum(compiled)


if __name__ == "__main__":
    main()
