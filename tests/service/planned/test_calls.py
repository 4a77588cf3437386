"""How many calls of our Python a planned rotation takes, from the socket to its answer.

Frames are counted as in `test_calls_per_request`. All calls of a batch are counted, and divided by
the requests of the batch.
"""

import asyncio
from types import FrameType

import pytest

from rope_core import compiled
from tests.service.planned.requests import Client, know, rotation
from tests.service.planned.servers import running, until
from tests.service.test_calls_per_request import OURS, Profile

pytestmark = pytest.mark.skipif(
    compiled.extension() is None, reason="the bound is that of the compiled rotation"
)

MAX_CALLS = 24

EXCHANGE = rotation(16)


class CallProfile(Profile):
    """Keeps no frame, so that memory returns while it counts. No coroutine of ours runs here."""

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            self.calls[frame.f_code] += 1


async def test_calls_of_a_planned_rotation():
    num_calls = 64
    async with running(log_level="info") as service:
        know(service, [EXCHANGE])
        clients = [await Client.connect(service.address) for _ in range(num_calls)]
        for _ in range(3):
            await asyncio.gather(*(client.ask(EXCHANGE.request) for client in clients))
        with CallProfile() as profile:
            for client in clients:
                client.writer.write(EXCHANGE.request)
            await until(lambda: len(service.statuses) == 4 * num_calls)
        for client in clients:
            assert (await client.read()).body == EXCHANGE.body
            client.leave()
    count = f"{profile.calls.total() / num_calls:.1f} calls for each request\n{profile.table()}"
    print(count)  # noqa: T201 - shown by pytest -s, and where the test fails
    assert profile.calls.total() <= MAX_CALLS * num_calls, count
