"""The service in this process: everything of its Python interface that the first run uses."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.first_run.fake_driver import StandIn
from benchmarks.gpu_cases.packages import Missing
from benchmarks.gpu_cases.sizes import Sizes
from rope_core import RopeConfig, Rotate

TIMEOUT_S = 40.0
"""Seconds that a request, or the start, may take."""

END_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service answers."""

    status: int
    retry: bool
    """Whether there is a Retry-After header."""

    code: str
    """Code of the problem, empty where there is none."""

    tensors: Mapping[str, Tensor]


Ask = Callable[[str, Mapping[str, Tensor], Mapping[str, object]], Reply]
"""Sends tensors and parameters to a path, from any thread."""


def driver_of(sizes: Sizes) -> Any:
    """Return the driver of the GPU, or a stand-in for it.

    Raises:
        Missing: the service cannot be imported.
    """
    try:
        from service.device import find_driver
    except ImportError as why:
        raise Missing(f"the service needs its dependencies: {why}") from None
    return StandIn() if sizes.dry else find_driver("cuda")


@contextmanager
def running(driver: object) -> Iterator[Ask]:
    """Run the application in an event loop of another thread, and wait until it is ready."""
    import httpx

    from service.lifecycle import Lifecycle
    from service.server.app import create_app
    from service.settings import Settings
    from service.wire import Message
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

    def ask(path: str, tensors: Mapping[str, Tensor], params: Mapping[str, object]) -> Reply:
        body = b"".join(codec.encode(Message(dict(tensors), json.dumps(params).encode())))
        headers = {"content-type": codec.media_type}
        response = wait_for(client.post(path, content=body, headers=headers))
        if response.status_code == 200:
            return Reply(200, False, "", codec.decode(response.content).tensors)
        retry, problem = "retry-after" in response.headers, response.json()
        return Reply(response.status_code, retry, problem["code"], {})

    lifespan, client = wait_for(start())
    while wait_for(client.get("/readyz")).status_code != 200:
        time.sleep(POLL_S)
    try:
        yield ask
    finally:
        with suppress(Exception):
            wait_for(client.aclose(), END_S)
            wait_for(lifespan.__aexit__(None, None, None), END_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True, slots=True)
class Rotator:
    """Rotates tensors from host to host by the engine, in the thread that asks for it."""

    service: Any

    def pinned(self, shape: Sequence[int]) -> Tensor:
        """Return random numbers in memory that the device copies from."""
        memory = self.service.buffer_pool.lease(2 * torch.Size(shape).numel())
        return torch.frombuffer(memory, dtype=torch.bfloat16).view(shape).normal_()

    def rotate(self, q: Tensor) -> Tensor:
        """Return q `[1, S, H, D]`, rotated."""
        engine = self.service.engine
        job = engine.job(Rotate(q, None, RopeConfig.of(q.shape[-1])))
        return engine.run([job]).results[0].q


@cache
def rotator(sizes: Sizes) -> Rotator:
    """Return the one of this process."""
    driver = driver_of(sizes)
    from service.lifecycle import Lifecycle
    from service.server.bootstrap import build_service
    from service.settings import Settings

    return Rotator(build_service(Settings(log_level="warning"), Lifecycle(), driver)[0])
