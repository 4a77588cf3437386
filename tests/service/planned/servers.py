"""The whole service behind a socket in this process, with and without planned requests."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.access.certificates import Certificates
from service.batching.run import Run
from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.observability.request_log import Record, RequestLog
from service.oip.state import OipState
from service.planned.planner import Planner
from service.server.app import build_app
from service.server.asgi_protocol import AsgiProtocol
from service.server.bootstrap import build_service, lifespan
from service.server.connection import Connection
from service.server.connection_draining import has_unread_bytes
from service.server.connection_limits import connection_limits
from service.server.planned_requests import PlannedRequests
from service.server.tls_transport import RECEIVE_BYTES, TlsTransport
from service.server.uvicorn_server import Server
from service.server.websocket_streams import PING_S, WebSocketStreams
from service.settings import Settings
from service.slab_pool import Slab, SlabPool
from service.v1.session_stream import SessionOperations

UVICORNS = {"httptools": HttpToolsProtocol, "h11": H11Protocol}
"""uvicorn's own protocols."""


class HeldDevice:
    """Runs calls, but each run waits until `release`."""

    def __init__(self, run: Callable[[Sequence[Any]], Run[Any]]) -> None:
        self._run = run
        self._started = threading.Semaphore(0)
        self._released = threading.Event()

    def __call__(self, calls: Sequence[Any]) -> Run[Any]:
        self._started.release()
        assert self._released.wait(30)
        return self._run(calls)

    async def started(self) -> None:
        """Wait until one more run has started."""
        assert await asyncio.to_thread(self._started.acquire, timeout=30)

    def release(self) -> None:
        """Let all runs end."""
        self._released.set()


class CountingPool(SlabPool):
    """Counts the slabs that are leased."""

    num_leased = 0

    def lease(self, num_bytes: int) -> Slab:
        self.num_leased += 1
        return super().lease(num_bytes)

    def give_back(self, memory: Any) -> None:
        self.num_leased -= 1
        super().give_back(memory)


class RecordingLog(RequestLog):
    """Keeps the records of planned requests, which are recorded together."""

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self.records: list[Record] = []

    def record_all(self, records: Sequence[Record]) -> None:
        self.records += records
        self._log.record_all(records)


@dataclass(frozen=True)
class Running:
    """A running service."""

    server: Server
    handler: InferenceHandler
    lifecycle: Lifecycle
    planned: PlannedRequests
    log: RecordingLog

    @property
    def address(self) -> tuple[str, int]:
        return self.server.servers[0].sockets[0].getsockname()

    @property
    def connections(self) -> Sequence[Any]:
        """The server's sides of all connections."""
        return [*self.server.server_state.connections]

    @property
    def statuses(self) -> list[int | str]:
        """Statuses of all planned requests so far."""
        return [record.status for record in (*self.log.records, *self.planned._records)]

    @property
    def num_slabs(self) -> int:
        """How many slabs are leased."""
        return self.planned.slab_pool.num_leased

    @property
    def charged_bytes(self) -> int:
        return self.handler.admission.charged_bytes

    @property
    def num_waiting(self) -> int:
        return len(self.handler.batcher.waiting)

    def hold(self) -> None:
        """Let calls wait in the queue until `release`."""
        self.handler.batcher.pause()

    def release(self) -> None:
        self.handler.batcher.resume()

    def hold_device(self) -> "HeldDevice":
        """Let runs start on the thread of the device, and end when the test says so."""
        batcher = self.handler.batcher
        device = HeldDevice(batcher.run)
        batcher.run, batcher.inline_limit_s = device, 0.0
        return device

    def metric(self, name: str, **labels: str) -> float:
        return self.handler.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running(
    protocol: str = "planned",
    certificates: Certificates | None = None,
    *,
    sessions: SessionOperations | None = None,
    ping_s: float = PING_S,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Run the service on the CPU.

    Args:
        protocol: of its connections: "planned", "ordinary", which knows no planned requests, or a
            name among UVICORNS.
        certificates: of TLS; None: there is no TLS.
        sessions: runs the operations of streams; None: sessions are off.
        ping_s: seconds between the pings of streams.
        settings: of the operator.
    """
    threads = torch.get_num_threads()
    lifecycle = Lifecycle()
    chosen = Settings(**{"device": "cpu", "warm_up_shapes": "", "log_level": "warning"} | settings)
    handler, device_threads = build_service(chosen, lifecycle)
    state = OipState(handler, lifecycle)
    app = build_app(state, device_threads)
    log = RecordingLog(app.request_log)
    planned = PlannedRequests(
        Planner(state),
        CountingPool(2**26, handler.buffer_pool),
        handler.batcher,
        handler.admission,
        lifecycle,
        log,
    )
    streams = WebSocketStreams(sessions, handler, lifecycle, log, ping_s)
    limits = connection_limits(chosen, handler.batcher.load)._replace(upgrades=streams)
    protocols = {
        "planned": partial(Connection, planned, limits),
        "ordinary": partial(AsgiProtocol, limits),
        **UVICORNS,
    }
    http = protocols[protocol]
    if certificates is not None:
        http = partial(
            TlsTransport, certificates, memoryview(bytearray(RECEIVE_BYTES)), limits, http
        )
    config = uvicorn.Config(
        app,
        port=0,
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    config.load()
    server = Server(
        config,
        lifecycle,
        pacer=limits.pacer,
        lifespan=nullcontext(),
        listeners=(),
        delay_s=0,
        drain_s=1,
        unix_socket=chosen.unix_socket,
        plain_protocol=protocols[protocol],
    )
    server.lifespan = config.lifespan_class(config)
    others = asyncio.all_tasks()
    async with lifespan(state, device_threads):
        await asyncio.wait(asyncio.all_tasks() - others)  # the warm-up
        await server.startup()
        await server.on_tick(0)  # sets the date
        try:
            yield Running(server, handler, lifecycle, planned, log)
        finally:
            lifecycle.drain()
            server.force_exit = True
            for connection in server.server_state.connections:
                _transport(connection).abort()
            await server.shutdown()
    torch.set_num_threads(threads)


async def settled(service: Running) -> None:
    """Wait until the service has read all that was sent, and has done what it can do at once."""
    turns = 0
    while turns < 10:
        await asyncio.sleep(0)
        turns = 0 if any(map(_has_unread, service.connections)) else turns + 1


def _has_unread(connection: Any) -> bool:
    transport = _transport(connection)
    return not transport.is_closing() and has_unread_bytes(transport)


def _transport(connection: Any) -> asyncio.Transport:
    return getattr(connection, "_transport", None) or connection.transport


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0)
