"""Pacing of the acceptor: which connections are accepted, and which wait in the kernel."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.batching.load_estimate import LoadEstimate
from service.server import acceptor as acceptor_module
from service.server.acceptor import PER_PACED_TURN, Acceptor, bind
from service.server.connection_pacer import PER_RUN, PER_TICK, ConnectionPacer
from tests.service.test_load_estimate import Call


class Connection(asyncio.Protocol):
    """A connection that reports its opening and its closing."""

    def __init__(self, served: "Served") -> None:
        self._served = served

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._served.connections.append(self)
        self._served.pacer.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        self._served.connections.remove(self)
        self._served.pacer.closed()


class Served:
    """An acceptor and its clients."""

    def __init__(self, max_connections: int) -> None:
        self.load = LoadEstimate(60)
        self.pacer = ConnectionPacer(max_connections, self.load)
        self.connections: list[Connection] = []
        self.acceptor = Acceptor(
            bind("127.0.0.1", 0, "ROPE_HTTP_PORT"), lambda: Connection(self), self.pacer
        )
        self.clients: list[socket.socket] = []

    def connect(self, num_clients: int) -> None:
        """Connect clients; the kernel completes the handshakes without the acceptor."""
        address = self.acceptor.sockets[0].getsockname()
        self.clients += [socket.create_connection(address) for _ in range(num_clients)]


@asynccontextmanager
async def serving(max_connections: int = 1000) -> AsyncIterator[Served]:
    served = Served(max_connections)
    try:
        yield served
    finally:
        served.acceptor.close()
        for client in served.clients:
            client.close()
        await until(lambda: not served.connections)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0)


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_all_connections_are_accepted_while_the_device_has_little_work():
    async with serving() as served:
        served.connect(150)
        await until(lambda: len(served.connections) == 150)


async def test_a_connection_that_has_just_opened_counts_once():
    """Each client connects when the one before it is open, and its task has not ended."""
    async with serving(max_connections=3) as served:
        opened = served.pacer.opened

        def open_and_connect() -> None:
            opened()
            if len(served.clients) < 3:
                served.connect(1)

        served.pacer.opened = open_and_connect
        served.connect(1)
        await until(lambda: len(served.connections) == 3)


async def test_beyond_the_limit_a_connection_is_accepted_when_another_closes():
    async with serving(max_connections=3) as served:
        served.connect(5)
        await until(lambda: len(served.connections) == 3)
        await turns()
        assert len(served.connections) == 3
        for num_left in (4, 3, 2):
            served.clients.pop(0).close()
            await until(lambda: len(served.connections) == min(num_left, 3))  # noqa: B023
            await turns()
            assert len(served.connections) <= 3


async def test_under_load_connections_are_accepted_as_calls_end(monkeypatch):
    monkeypatch.setattr("service.server.connection_pacer.TICK_S", 60.0)
    async with serving() as served:
        call = Call(1.0)
        for _ in range(4):
            served.load.add(call, 0.0, 1e9)
        served.connect(4 * PER_PACED_TURN)
        await turns()
        assert not served.connections
        run = served.load.start([call], 0.0, 0.0)
        served.load.end(run, 1.0)
        await turns()
        assert not served.connections, "the device has work for 3 s"
        run = served.load.start([call] * 3, 1.0, 1.0)
        served.load.end(run, 1.01)  # there is no more work
        await until(lambda: len(served.connections) == 4 * PER_PACED_TURN)


async def test_some_connections_are_accepted_even_if_no_call_ends(monkeypatch):
    """A health probe must reach a service whose device is stuck."""
    monkeypatch.setattr("service.server.connection_pacer.TICK_S", 0.0)
    async with serving() as served:
        served.load.add(Call(100.0), 0.0, 1e9)
        served.connect(PER_PACED_TURN + 1)
        await until(lambda: len(served.connections) == PER_PACED_TURN + 1)


async def test_all_pending_connections_are_accepted_before_the_service_ends(monkeypatch):
    """Closing the listener would reset them."""
    monkeypatch.setattr("service.server.connection_pacer.TICK_S", 60.0)
    async with serving() as served:
        served.load.add(Call(100.0), 0.0, 1e9)
        served.connect(4 * PER_PACED_TURN)
        await turns()
        assert not served.connections
        served.pacer.stop_pacing()
        await until(lambda: len(served.connections) == 4 * PER_PACED_TURN)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPROTO])
async def test_after_an_error_accepting_pauses_and_goes_on_later(monkeypatch, number):
    monkeypatch.setattr(acceptor_module, "RETRY_S", 0.0)
    tries = []

    async with serving() as served:
        (listener,) = served.acceptor.sockets

        class Exhausted:
            """A listener of a process without a free descriptor."""

            def fileno(self) -> int:
                return listener.fileno()

            def accept(self) -> object:
                tries.append(None)
                if len(tries) < 3:
                    raise OSError(number, "no connection")
                return listener.accept()

            def __getattr__(self, name: str) -> object:
                return getattr(listener, name)

        served.acceptor._pause()
        served.acceptor.sockets = (Exhausted(),)
        served.acceptor._resume()
        served.connect(1)
        await until(lambda: tries)
        assert not served.connections
        await until(lambda: served.connections)
        assert 3 <= len(tries) <= 5, "tries are few: nothing spins"


async def test_the_clients_refused_last_are_read_when_little_work_is_left(monkeypatch):
    monkeypatch.setattr("service.server.connection_pacer.HOLD_S", 60.0)
    load = LoadEstimate(60)
    pacer, read = ConnectionPacer(10, load), []
    load.add(Call(1.0), 0.0, 1e9)
    for number in range(PER_RUN + 3):
        pacer.hold(lambda number=number: read.append(number) is None)
    load.end(load.start([Call(1.0)], 0.0, 0.0), 1.0)
    await until(lambda: read)
    await turns()
    assert read == list(range(PER_RUN + 2, 2, -1))


async def test_the_clients_held_longest_are_read_first_even_if_the_device_is_busy(monkeypatch):
    monkeypatch.setattr("service.server.connection_pacer.TICK_S", 0.0)
    monkeypatch.setattr("service.server.connection_pacer.HOLD_S", 0.0)
    load = LoadEstimate(60)
    pacer, read, per_tick = ConnectionPacer(10, load), [], []
    load.add(Call(100.0), 0.0, 1e9)
    for number in range(PER_TICK + 3):
        pacer.hold(lambda number=number: read.append(number) is None)
    while len(read) < PER_TICK + 3:
        await turns(1)
        per_tick.append(len(read))
    assert read == [*range(PER_TICK + 3)]
    assert PER_TICK in per_tick, "a tick reads no more"
    await turns(2)
    assert pacer._timer is None


async def test_a_client_is_held_for_a_time(monkeypatch):
    """The queue of the held clients does not delay connections that wait to be accepted."""
    monkeypatch.setattr("service.server.connection_pacer.TICK_S", 0.0)
    monkeypatch.setattr("service.server.connection_pacer.HOLD_S", 60.0)
    load = LoadEstimate(60)
    pacer, read, accepted = ConnectionPacer(10, load), [], []
    load.add(Call(100.0), 0.0, 1e9)
    pacer.hold(lambda: read.append(None) is None)
    pacer.wait_to_accept(lambda: accepted.append(None))
    await until(lambda: accepted)
    await turns()
    assert not read


@pytest.mark.parametrize("setting", ["ROPE_HTTP_PORT", "ROPE_STATUS_PORT"])
def test_an_address_in_use_is_named_with_its_setting(setting):
    (first,) = bind("127.0.0.1", 0, setting)
    first.listen()
    port = first.getsockname()[1]
    with first, pytest.raises(OSError, match="cannot listen") as refused:
        bind("127.0.0.1", port, setting)
    assert refused.value.strerror == (
        f"cannot listen on 127.0.0.1:{port}: another process listens there; "
        f"choose another port with {setting}, or 0 for a free one; "
        "a second service needs its own ROPE_HTTP_PORT and ROPE_GRPC_PORT"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_named_with_the_setting_of_the_host(host):
    with pytest.raises(OSError, match=f"on {host}:1234: .*; ROPE_HTTP_HOST must be an address of"):
        bind(host, 1234, "ROPE_HTTP_PORT")
