"""The application in this process, and both codecs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

import httpx
import pytest
import pytest_asyncio
import torch

from service.asgi.middleware import RequestMiddleware
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from service.wire import CODECS, Codec, Message
from tests.service.in_process_worker import InProcessWorker


@pytest.fixture(params=CODECS, ids=lambda codec: codec.media_type.rpartition("/")[2])
def codec(request: pytest.FixtureRequest) -> Codec:
    return request.param


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
async def app(lifecycle: Lifecycle) -> AsyncIterator[RequestMiddleware]:
    async with running(lifecycle) as app:
        yield app


@pytest.fixture
async def client(app: RequestMiddleware) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(app) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client() -> AsyncIterator[httpx.AsyncClient]:
    """Ask an application that all tests of a file share: none may ask what others asked of it.

    To make one takes longer than most tests. The file says `every_test_in_one_loop`.
    """
    async with running(Lifecycle()) as app, asking(app) as client:
        yield client


every_test_in_one_loop = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def running(lifecycle: Lifecycle, **settings: object) -> AsyncIterator[RequestMiddleware]:
    """Run an application with settings of one's own."""
    threads = torch.get_num_threads()
    chosen = {"max_body_bytes": 2**20, "max_json_bytes": 2**18, "log_level": "warning", **settings}
    with patch("service.server.bootstrap.WorkerProcess", InProcessWorker):
        app = create_app(Settings(device="cpu", **chosen), lifecycle)
    async with app.app.router.lifespan_context(app.app):
        yield app
    torch.set_num_threads(threads)


def asking(app: RequestMiddleware) -> httpx.AsyncClient:
    """Return a client of an application in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


async def post(
    client: httpx.AsyncClient,
    codec: Codec,
    path: str,
    message: Message,
    as_base64: bool = False,
    **headers: str,
) -> httpx.Response:
    """Send a message; header names have underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(
        path,
        content=b"".join(codec.encode(message, as_base64)),
        headers={"content-type": codec.media_type, **named},
    )
