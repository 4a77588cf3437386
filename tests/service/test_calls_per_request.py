"""How many calls of our Python a warm one-token JSON rotation takes.

How it counts: one request goes through the ASGI application in this process, from the call of the
application to the last `send`. `receive` and `send` are in memory, and all runs on the thread of
the event loop. `sys.setprofile` sees each frame that begins; those count whose code is in a file of
`service/` or `rope_core/`. A frame that goes on after an `await` is seen as another call by
`sys.setprofile`, and is not counted again. Comprehensions and generators are frames of their own
in Python 3.11; from 3.12 on, comprehensions are not. The request before it is the same, so that
everything is warm.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from rope_core import compiled
from tests.conftest import ROOT
from tests.service.outside import Outside, whole_service

MAX_CALLS, MAX_FUNCTIONS = (98, 78) if compiled.extension() else (104, 81)
"""Bounds of the ordinary way, compiled or by torch: what is called today. Some eight calls
record metrics and render times, as prometheus_client and one function did before, and four find the
compiled rotation."""

OURS = (f"{ROOT / 'service'}/", f"{ROOT / 'rope_core'}/")
HEAD = [float(n % 7) for n in range(64)]
BODY = json.dumps(
    {"q": [[HEAD] * 8], "k": [[HEAD] * 2], "positions": [5], "rope": {"theta": 10_000}}
).encode()


@pytest.fixture
async def service() -> AsyncIterator[Outside]:
    async with whole_service() as service:
        yield service


class Profile:
    """Counts frames of our files that begin on this thread."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self._seen: dict[int, FrameType] = {}

    def __enter__(self) -> "Profile":
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._seen.clear()

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(OURS):
            return
        if id(frame) not in self._seen:  # which holds it, so that no other gets its address
            self._seen[id(frame)] = frame
            self.calls[frame.f_code] += 1

    def table(self) -> str:
        """Return the functions, most called first."""
        rows = []
        for code, count in self.calls.most_common():
            path = Path(code.co_filename).relative_to(ROOT)
            rows.append(f"{count:4} {path}:{code.co_firstlineno} {code.co_qualname}")
        return "\n".join(rows)


async def rotate(service: Outside, profile: Profile | None = None) -> list[dict[str, Any]]:
    """Send one request, counted by `profile`, and return what is sent."""
    sent: list[dict[str, Any]] = []
    request = iter([{"type": "http.request", "body": BODY, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(request)

    async def send(event: Any) -> None:
        sent.append(event)
        if profile and event["type"] == "http.response.body" and not event.get("more_body"):
            profile.__exit__()

    headers = {"content-type": "application/json", "content-length": str(len(BODY))}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/rotate",
        "raw_path": b"/v1/rotate",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    if profile:
        profile.__enter__()
    await service.app(scope, receive, send)
    return sent


async def test_calls_of_a_warm_rotation(service: Outside):
    service.metrics.recent.end = math.inf  # no second ends: a row is rendered once a second
    for _ in range(3):
        await rotate(service)
    profiles = [Profile() for _ in range(3)]
    for profile in profiles:
        start, body = await rotate(service, profile)
        assert start["status"] == 200
        assert json.loads(body["body"])["q"]["shape"] == [1, 8, 64]
    first, *others = (profile.calls for profile in profiles)
    assert all(other == first for other in others), "each warm request takes the same calls"
    count = f"{first.total()} calls of {len(first)} functions\n{profiles[0].table()}"
    print(count)  # noqa: T201 - shown by pytest -s, and where the test fails
    assert first.total() <= MAX_CALLS, count
    assert len(first) <= MAX_FUNCTIONS, count
