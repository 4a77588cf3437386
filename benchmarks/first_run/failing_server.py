"""The service on a device that fails: `python -m benchmarks.first_run.failing_server lost|stuck`.

The first request of more than LIMIT bytes launches a kernel that writes to an illegal address
(lost) or one that runs for 40 s (stuck). Without a GPU, a stand-in fails in the same ways.
"""

import sys
import threading
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.first_run.fake_driver import StandIn
from service.device import Driver, find_driver
from service.server.serve import serve
from service.settings import Settings

LIMIT = 300_000
"""A copy of more bytes to the device triggers the fault. The warm-up copies fewer."""

SLEEP_CYCLES = 80_000_000_000
"""40 s of a multiprocessor at 2 GHz."""

FAR = 2**40


@triton.jit
def _reach_too_far(x_ptr, far) -> None:  # noqa: ANN001 - typed when it is compiled
    tl.store(x_ptr + far, 1)


def _lose() -> None:
    _reach_too_far[(1,)](torch.empty(16, dtype=torch.int32, device="cuda"), FAR)


def _sleep() -> None:
    torch.cuda._sleep(SLEEP_CYCLES)


def _driver(kind: str, dry: bool) -> Driver:
    driver: Driver | None = StandIn() if dry else find_driver("cuda")
    assert driver is not None, "cuda has a driver"
    faults: dict[str, Callable[[], object]] = {"lost": _lose, "stuck": _sleep}
    if isinstance(driver, StandIn):
        faults = {"lost": driver.lose, "stuck": threading.Event().wait}
    copy = driver.copy

    def failing_copy(to: Tensor, source: Tensor) -> None:
        if source.numel() > LIMIT:
            faults[kind]()
        copy(to, source)

    driver.copy = failing_copy  # type: ignore[method-assign]
    return driver


if __name__ == "__main__":
    serve(Settings(), _driver(sys.argv[1], "--dry-run" in sys.argv))
