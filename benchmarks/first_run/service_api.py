"""The service in this process. The only module of the first run that uses its Python interface."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.first_run.fake_driver import FakeDriver
from benchmarks.gpu_cases.packages import Unavailable
from benchmarks.gpu_cases.sizes import Sizes
from rope_core import RopeConfig, Rotate

TIMEOUT_S = 40.0
"""Limit of a request, and of the start."""

SHUTDOWN_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the service."""

    status: int
    retry: bool
    """Whether there is a `Retry-After` header."""

    code: str
    """Code of the problem, empty if there is none."""

    tensors: Mapping[str, Tensor]


Send = Callable[[str, Mapping[str, Tensor], Mapping[str, object]], Response]
"""Sends tensors and parameters to a path. Thread-safe."""


def find_driver(sizes: Sizes) -> Any:
    """Return the driver of the GPU, in a dry run a fake driver.

    Raises:
        Unavailable: the service cannot be imported.
    """
    try:
        from service import device
    except ImportError as exc:
        raise Unavailable(f"the service needs its dependencies: {exc}") from None
    return FakeDriver() if sizes.dry_run else device.find_driver("cuda")


@contextmanager
def running_service(driver: object) -> Iterator[Send]:
    """Run the application in the event loop of another thread, and wait until it is ready."""
    import httpx

    from service.lifecycle import Lifecycle
    from service.server.app import create_app
    from service.settings import Settings
    from service.wire import Message, Parameters
    from service.wire import safetensors_codec as codec

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait_for(coroutine: Any, timeout_s: float = TIMEOUT_S) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout_s)

    async def start() -> tuple[Any, httpx.AsyncClient]:
        app = create_app(Settings(log_level="warning"), Lifecycle(), driver)
        lifespan = app.app.router.lifespan_context(app.app)
        await lifespan.__aenter__()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://service", timeout=TIMEOUT_S
        )
        return lifespan, client

    def send(path: str, tensors: Mapping[str, Tensor], params: Mapping[str, object]) -> Response:
        body = b"".join(codec.encode(Message(dict(tensors), Parameters.of(params))))
        headers = {"content-type": codec.media_type}
        response = wait_for(client.post(path, content=body, headers=headers))
        if response.status_code == 200:
            return Response(200, False, "", codec.decode(response.content).message.tensors)
        retry, problem = "retry-after" in response.headers, response.json()
        return Response(response.status_code, retry, problem["code"], {})

    lifespan, client = wait_for(start())
    while wait_for(client.get("/readyz")).status_code != 200:
        time.sleep(POLL_INTERVAL_S)
    try:
        yield send
    finally:
        with suppress(Exception):
            wait_for(client.aclose(), SHUTDOWN_TIMEOUT_S)
            wait_for(lifespan.__aexit__(None, None, None), SHUTDOWN_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True, slots=True)
class Rotator:
    """Rotates tensors from host to host with the engine, in the calling thread."""

    service: Any

    def pinned(self, shape: Sequence[int]) -> Tensor:
        """Return random numbers, bfloat16, in page-locked memory."""
        memory = self.service.buffer_pool.lease(2 * torch.Size(shape).numel())
        return torch.frombuffer(memory, dtype=torch.bfloat16).view(shape).normal_()

    def rotate(self, q: Tensor) -> Tensor:
        """Rotate q `[1, S, H, D]`."""
        engine = self.service.engine
        job = engine.job(Rotate(q, None, RopeConfig.of(q.shape[-1])))
        return engine.run([job]).results[0].q


@cache
def rotator(sizes: Sizes) -> Rotator:
    """Return the rotator of this process."""
    driver = find_driver(sizes)
    from service.lifecycle import Lifecycle
    from service.server.bootstrap import build_service
    from service.settings import Settings

    return Rotator(build_service(Settings(log_level="warning"), Lifecycle(), driver)[0])
