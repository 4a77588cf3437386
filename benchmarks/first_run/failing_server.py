"""The service on a device that fails: `python -m benchmarks.first_run.failing_server lost|stuck`.

The first copy of more than LIMIT_BYTES to the device launches a kernel that writes to an illegal
address (lost) or a kernel that runs for 40 s (stuck). `--dry-run` uses a fake driver that fails in
the same ways, without a GPU.
"""

import sys
import threading
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.first_run.fake_driver import FakeDriver
from service.device import Driver, find_driver
from service.server.serve import serve
from service.settings import Settings

LIMIT_BYTES = 300_000
"""The warm-up copies fewer bytes."""

SLEEP_CYCLES = 80_000_000_000
"""40 s of a multiprocessor at 2 GHz."""

ILLEGAL_OFFSET = 2**40


@triton.jit
def _write_illegal_address(x_ptr, offset) -> None:  # noqa: ANN001 - Triton infers the types
    tl.store(x_ptr + offset, 1)


def _lose_device() -> None:
    _write_illegal_address[(1,)](torch.empty(16, dtype=torch.int32, device="cuda"), ILLEGAL_OFFSET)


def _sleep() -> None:
    torch.cuda._sleep(SLEEP_CYCLES)


def _failing_driver(kind: str, dry_run: bool) -> Driver:
    driver: Driver | None = FakeDriver() if dry_run else find_driver("cuda")
    assert driver is not None, "there is a driver for cuda"
    faults: dict[str, Callable[[], object]] = {"lost": _lose_device, "stuck": _sleep}
    if isinstance(driver, FakeDriver):
        faults = {"lost": driver.lose, "stuck": threading.Event().wait}
    copy = driver.copy

    def failing_copy(to: Tensor, source: Tensor) -> None:
        if source.numel() > LIMIT_BYTES:
            faults[kind]()
        copy(to, source)

    driver.copy = failing_copy  # type: ignore[method-assign]
    return driver


if __name__ == "__main__":
    serve(Settings(), _failing_driver(sys.argv[1], "--dry-run" in sys.argv))
