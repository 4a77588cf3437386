"""End streams that clients leave open when the service stops listening."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from service.errors import ShuttingDown
from service.lifecycle import Lifecycle

T = TypeVar("T")


async def while_open(requests: AsyncIterator[T], lifecycle: Lifecycle) -> AsyncIterator[T]:
    """Yield requests until there are no more.

    Raises:
        ShuttingDown: the service stops listening; requests that come later are not run.
    """
    closing = asyncio.create_task(lifecycle.wait_for_closing())
    reading: asyncio.Future[T] | None = None
    try:
        while not closing.done():
            reading = asyncio.ensure_future(anext(requests))
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                break
            if isinstance(reading.exception(), StopAsyncIteration):
                return
            yield reading.result()
        raise ShuttingDown
    finally:
        closing.cancel()
        if reading is not None:
            reading.cancel()
