"""Every test that takes `connect` runs with the client that blocks and with the one that waits."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from rope_client import AsyncClient, Client

Ask = Callable[..., Awaitable[object]]


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now_s = 1_000.0
        self.pauses = []

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now_s += seconds

    async def asleep(self, seconds):
        self.sleep(seconds)


class Server:
    """Answers each request with the next of `answers`, the last one for ever, and keeps requests.

    An answer is a response, an exception to raise, or a function of the request.
    """

    def __init__(self, *answers):
        self.answers = answers
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        # a response is bound to its first request and to sync or async: each gets its own
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def answering():
    return Server


@pytest.fixture(params=["sync", "async"])
async def connect(request, time):
    """Return a function that makes a client of a server and returns how to ask it."""
    clients = []

    def connect_to(server=None, **options):
        if server is not None:
            options = {"transport": httpx.MockTransport(server), "clock": time.clock, **options}
        if request.param == "sync":
            client = Client(**options, **({"sleep": time.sleep} if server else {}))
        else:
            client = AsyncClient(**options, **({"sleep": time.asleep} if server else {}))
        clients.append(client)

        async def ask(method, **arguments):
            answer = getattr(client, method)(**arguments)
            return answer if request.param == "sync" else await answer

        return ask

    yield connect_to
    for client in clients:
        if isinstance(client, Client):
            client.close()
        else:
            await client.aclose()
