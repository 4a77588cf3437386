"""Wait for a condition that another process, thread or task makes true."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def wait_until(
    condition: Callable[[], bool], seconds: float = 30.0, interval_s: float = 0.005
) -> None:
    """Return when `condition` holds; check it every `interval_s` seconds.

    Raises:
        TimeoutError: it does not hold after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not become true")
        time.sleep(interval_s)


async def wait_until_async(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Return when `condition` holds; other tasks of the loop run between its checks.

    Raises:
        TimeoutError: it does not hold after `seconds`.
    """
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (polls what sets no event)
            await asyncio.sleep(0.005)
