"""What parts of a planned request are worth: `python -m benchmarks.planned_parts`.

One process, one core: each turn, requests arrive on some connections, and all are answered before
the next turn. Only the service is timed, from the received bytes to the answers in their sockets;
the kernel's part of receiving is not. The parts are replaced in turns, many rounds each; a row has
the least processor time of a request in microseconds.
"""

import argparse
import asyncio
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import uvicorn
import uvloop
from uvicorn.server import ServerState

from benchmarks import encodings, table, workloads
from benchmarks.workloads import WORKLOADS, Workload
from rope_core import compiled, table_rotation
from service.lifecycle import Lifecycle
from service.observability import logs
from service.observability.line_writer import LineWriter
from service.oip.state import OipState
from service.planned.planner import Planner
from service.server.app import build_app
from service.server.bootstrap import build_service
from service.server.connection import Connection
from service.server.connection_limits import connection_limits
from service.server.planned_requests import PlannedRequests
from service.settings import Settings

_LENGTH = re.compile(rb"content-length: (\d+)")

TURNS = 20
"""Turns of a timed round."""


class Client:
    """A client, and the transport of the service's side, over TCP."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._mine = socket.create_connection(listener.getsockname())
            self._socket, _ = listener.accept()
        for side in (self._mine, self._socket):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        self._mine.settimeout(10)  # on a busy machine, bytes arrive later than they are sent
        self._socket.setblocking(False)

    def read(self) -> bytes:
        """Return one answer."""
        data = header = b""
        size = 0
        while len(data) < size or not header:
            data += self._mine.recv(2**20)
            header, end, _ = data.partition(b"\r\n\r\n")
            header = header if end else b""
            if match := _LENGTH.search(header):
                size = len(header) + len(end) + int(match[1])
        return data

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self._socket if name == "socket" else None

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def writelines(self, parts: list[bytes]) -> None:
        if self._socket.sendmsg(parts) != sum(map(len, parts)):
            self.abort()

    def abort(self) -> None:
        raise SystemExit("an answer was not sent as a whole")


class Bench:
    """A service with connections whose requests arrive when the benchmark says so."""

    def __init__(self, request: bytes, num_connections: int) -> None:
        settings = Settings(device="cpu", warm_up_shapes="")
        lifecycle = Lifecycle()
        handler, threads = build_service(settings, lifecycle)
        state = OipState(handler, lifecycle)
        app = build_app(state, threads)
        lifecycle.warmed_up()
        self.batcher, self.log = handler.batcher, app.request_log
        self.planned = PlannedRequests(
            *(Planner(state), handler.slab_pool, handler.batcher, handler.admission, lifecycle),
            app.request_log,
        )
        self._request = request
        self.planned.planner.match(request)  # the second request with a header gets a plan
        self.clients = [Client() for _ in range(num_connections)]
        config, server_state = uvicorn.Config(app, lifespan="off"), ServerState()
        self.connections = [
            Connection(
                self.planned,
                connection_limits(settings, handler.batcher.load),
                config,
                server_state,
                {},
            )
            for _ in self.clients
        ]
        for connection, client in zip(self.connections, self.clients, strict=True):
            connection.connection_made(client)  # type: ignore[arg-type]

    async def measure(self, before_each: Callable[[Connection], None]) -> float:
        """Return the processor time of a request in seconds."""
        spent, size, planned = 0, len(self._request), self.planned
        for _ in range(TURNS):
            planned.landing[:size] = self._request
            start = time.thread_time_ns()
            for connection in self.connections:
                before_each(connection)
                connection.buffer_updated(size)
            while planned._records or any(  # noqa: ASYNC110 (no event)
                c._entry is not None for c in self.connections
            ):
                await asyncio.sleep(0)
            spent += time.thread_time_ns() - start
            self.answers = [client.read() for client in self.clients]
        return spent / 1e9 / TURNS / len(self.connections)


def _forget_plan(connection: Connection) -> None:
    connection._plan = None


@contextmanager
def _joined(bench: Bench) -> Iterator[None]:
    """Join the parts of each answer, as for a transport that encrypts."""
    descriptors = [connection._fd for connection in bench.connections]
    for connection in bench.connections:
        connection._fd = -1
    yield
    for connection, fd in zip(bench.connections, descriptors, strict=True):
        connection._fd = fd


def _recorded_alone(bench: Bench) -> AbstractContextManager[Any]:
    record, flush = bench.planned.record, bench.planned._flush_records

    def record_now(*args: Any) -> None:
        record(*args)
        flush()

    return mock.patch.object(bench.planned, "record", record_now)


@contextmanager
def _operators_of_torch(_: Bench) -> Iterator[None]:
    with mock.patch.object(compiled, "extension", return_value=None):
        table_rotation._token_rotation.cache_clear()
        yield
    table_rotation._token_rotation.cache_clear()


PARTS: dict[str, Callable[[Bench], AbstractContextManager[Any]]] = {
    "all as it is": lambda _: nullcontext(),
    "plan looked up for each request": lambda _: nullcontext(),
    "parts of an answer joined": _joined,
    "requests recorded one by one": _recorded_alone,
    "no lines": lambda bench: mock.patch.object(bench.log, "_logs_requests", False),
    "operators of torch": _operators_of_torch,
    "each call runs alone": lambda bench: mock.patch.object(bench.batcher, "max_batch_tokens", 1),
}
"""What replaces a part of a bench."""


async def _measure(workload: Workload, num_connections: int, rounds: int) -> dict[str, float]:
    (length,) = workload.lengths
    request = encodings.encode(workload, length)
    bench = Bench(request.http(), num_connections)
    least = dict.fromkeys(PARTS, float("inf"))
    for round_ in range(rounds + 1):
        for name, replaced in PARTS.items():
            forget = _forget_plan if name.startswith("plan") else lambda _: None
            with replaced(bench):
                await bench.measure(forget)  # fills caches
                if round_:
                    least[name] = min(least[name], await bench.measure(forget))
                    continue
                for answer in bench.answers:
                    body = answer.partition(b"\r\n\r\n")[2]
                    workloads.check(workload, length, request.decode(body))
    return least


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=100, help="default: 100")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--workload", default="rotate [1,16,8,64]", help="default: %(default)s")
    args = parser.parse_args()
    null = os.open(os.devnull, os.O_WRONLY)
    logs.output = LineWriter(null, lambda _: "")  # the lines of requests
    rows: dict[str, list[float]] = {name: [] for name in PARTS}
    (workload,) = (w for w in WORKLOADS if w.name == args.workload)
    for num_connections in args.connections:
        least = uvloop.run(_measure(workload, num_connections, 1 if args.quick else args.rounds))
        for name, seconds in least.items():
            rows[name].append(seconds * 1e6)
    table.print_machine()
    table.print_header(["us, requests in a turn", *map(str, args.connections)])
    for name, cells in rows.items():
        table.print_row([name, *cells])


if __name__ == "__main__":
    main()
