"""Streams whose clients break the protocol, leave, or do not read; the end; other transports."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

import pytest
import uvloop
import websockets
from websockets.asyncio.client import ClientConnection

from service.access.certificates import Certificates
from service.server import websocket
from service.server.websocket_reader import MAX_SMALL_FRAMES
from tests.service.certificates import Authority
from tests.service.planned.servers import Running, running, settled, until
from tests.service.sessions.fake_sessions import FakeSessions
from tests.service.sessions.stream_client import (
    RawClient,
    frame,
    handshake,
    message,
    raw,
    read,
    step,
    stream,
)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def on_both_loops(test: Callable[[], Awaitable[None]]) -> Callable[[str], None]:
    """Run a test on the loops of asyncio and of uvloop."""

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    @wraps(test)
    def run(loop: str) -> None:
        run_loop = uvloop.run if loop == "uvloop" else asyncio.run
        run_loop(asyncio.wait_for(test(), 60))

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would see its signature
    return run


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"{}"), 1003),
        (frame(BINARY, b"x", masked=False), 1002),
        (frame(3, b"x"), 1002),
        (b"\xf2" + frame(BINARY, b"x")[1:], 1002),
        (frame(0, b"x"), 1002),
        (frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(PING, bytes(126)), 1002),
        (b"\x82\xff" + b"\xff" * 8, 1009),
        (b"\x82\xff" + (2**20 + 1).to_bytes(8) + bytes(4), 1009),
        (frame(BINARY, bytes(2**20), fin=False) + frame(0, b"x"), 1009),
        (frame(PING, b"") * (MAX_SMALL_FRAMES + 1), 1008),
        (frame(PONG, b"x") * (MAX_SMALL_FRAMES + 1), 1008),
        (frame(BINARY, b"", fin=False) + frame(0, b"", fin=False) * MAX_SMALL_FRAMES, 1008),
        (frame(CLOSE, (1000).to_bytes(2)), 1000),
    ],
)
async def test_what_closes_a_stream(data: bytes, code: int):
    async with running(sessions=FakeSessions(), max_body_bytes=2**20) as service:
        async with stream(service) as other, raw(service) as client:
            await client.send(data)
            assert await client.read_close() == code
            assert await client.reader.read() == b""
            await other.send(step(0))
            assert read(await other.recv())["length"] == [1]
        await until(lambda: not service.connections)
        assert service.charged_bytes == 0
        assert {record.failure["close_code"] for record in service.log.records} == {1000, code}


@on_both_loops
async def test_a_message_in_many_pieces_and_frames():
    data = step(0, size=5000)
    cuts = [*range(0, len(data), 3000)]
    frames = [
        frame(BINARY if i == 0 else 0, data[i : i + 3000], fin=i == cuts[-1]) + frame(PING, b"hm")
        for i in cuts
    ]
    async with running(sessions=FakeSessions()) as service, raw(service) as client:
        sent = b"".join(frames)
        for start in range(0, len(sent), 997):
            await client.send(sent[start : start + 997])
            await settled(service)
        for _ in cuts[1:]:
            assert await client.read_frame() == (PONG, b"hm")
        last = [await client.read_frame() for _ in range(2)]
        assert sorted(opcode for opcode, _ in last) == [BINARY, PONG]
        assert read(next(each for opcode, each in last if opcode == BINARY))["length"] == [1]
        for byte in frame(BINARY, step(1)):
            await client.send(bytes([byte]))
        assert read((await client.read_frame())[1])["length"] == [2]
        assert service.charged_bytes == 0


@on_both_loops
async def test_no_more_is_read_while_32_messages_wait():
    sessions = FakeSessions()
    sessions.hold("a")
    async with running(sessions=sessions) as service, raw(service) as client:
        num_messages = 200
        data = b"".join(frame(BINARY, step(seq, size=2000)) for seq in range(num_messages))
        sending = asyncio.create_task(client.send(data))
        await until(lambda: len(sessions.calls) == websocket.MAX_UNANSWERED)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sessions.calls) == websocket.MAX_UNANSWERED
        (connection,) = service.connections
        assert len(connection._unparsed) <= len(connection._receive_buffer)
        sessions.release("a")
        for seq in range(num_messages):
            assert read((await client.read_frame())[1])["seq"] == seq
        await sending
    assert len(sessions.calls) == num_messages


@on_both_loops
async def test_a_client_that_does_not_read_is_reset():
    sessions = FakeSessions()
    async with running(sessions=sessions, write_stall_s=1, min_body_rate=2**20) as service:
        async with stream(service) as other, raw(service) as client:
            client.writer.transport.pause_reading()
            size = 2**20
            data = b"".join(frame(BINARY, step(seq, size=size)) for seq in range(40))
            sending = asyncio.create_task(client.send(data + frame(PING, bytes(100)) * 500))
            await until(lambda: len(service.connections) == 1)
            assert len(sessions.calls) <= 2 * websocket.MAX_UNANSWERED
            sending.cancel()
            await other.send(message(op="inspect", seq=0))
            assert read(await other.recv())["seq"] == 0
        await until(lambda: not service.connections)
        assert service.charged_bytes == 0


async def test_a_message_that_arrives_too_slowly():
    async with running(sessions=FakeSessions(), body_grace_s=0.1) as service:
        async with raw(service) as client:
            await client.send(frame(BINARY, step(0)) + frame(BINARY, step(1))[:-1])
            assert read((await client.read_frame())[1])["length"] == [1]
            assert await client.read_close() == 1008
        await until(lambda: not service.connections)


async def test_memory_of_a_message_is_charged_while_it_arrives():
    data = frame(BINARY, step(0, size=2**17))
    async with running(sessions=FakeSessions(), memory_budget_bytes=2**23) as service:
        async with raw(service) as first, raw(service) as second:
            await first.send(data[: 2**18])
            await until(lambda: service.charged_bytes >= 2**19 - 100)  # unmasking needs twice
            admission = service.handler.admission
            others = admission.max_bytes - service.charged_bytes
            admission.charged_bytes += others
            await second.send(data[: 2**18])
            assert await second.read_close() == 1013
            admission.release(others)
            await first.send(data[2**18 :])
            assert read((await first.read_frame())[1])["length"] == [1]
        await until(lambda: not service.connections)
        assert service.charged_bytes == 0


async def test_pings():
    async with running(sessions=FakeSessions(), ping_s=0.05) as service:
        async with raw(service) as client, stream(service, ping_interval=None) as other:
            opcode, payload = await client.read_frame()
            assert opcode == PING
            await client.send(frame(PONG, payload))
            assert (await client.read_frame())[0] == PING  # this one is not answered
            assert await client.read_close() == 1011
            assert await client.reader.read() == b""
            await other.send(step(0))  # the library answers pings
            assert read(await other.recv())["length"] == [1]
        await until(lambda: not service.connections)


@on_both_loops
async def test_a_client_that_leaves():
    """Its messages that wait for their turn are withdrawn, and their memory is given back."""
    sessions = FakeSessions()
    sessions.hold("a")
    async with running(sessions=sessions) as service:
        async with raw(service) as client:
            await client.send(b"".join(frame(BINARY, step(seq)) for seq in range(5)))
            await until(lambda: len(sessions.calls) == 5)
        await until(lambda: not service.connections)
        await until(lambda: sessions.num_cancelled == 5)
        assert service.charged_bytes == 0
        (record,) = service.log.records
        assert record.failure["close_code"] == 1006
        sessions.release("a")
        async with stream(service) as connection:
            await connection.send(step(0))
            assert read(await connection.recv())["length"] == [1]


@pytest.mark.parametrize("value", ["true", "1", ""])
async def test_the_end_of_a_stream_may_end_its_session(value: str):
    sessions = FakeSessions()
    sessions.hold("a")
    async with running(sessions=sessions) as service:
        async with raw(service, f"/v1/sessions/a/stream?end_on_close={value}") as client:
            await client.send(frame(BINARY, step(0)))
            await until(lambda: sessions.calls)
        await until(lambda: sessions.num_cancelled == 1)
        sessions.release("a")
        await until(lambda: "a" not in sessions.lengths)
        async with stream(service, "/v1/sessions/b/stream?end_on_close=false"):
            pass
        await until(lambda: not service.connections)
        assert "b" in sessions.lengths


@on_both_loops
async def test_at_the_end_what_was_read_is_answered():
    sessions = FakeSessions()
    sessions.hold("a")
    async with running(sessions=sessions) as service, stream(service) as connection:
        for seq in range(40):
            await connection.send(step(seq))
        await until(lambda: len(sessions.calls) == 32)
        await settled_reading(service)
        service.lifecycle.drain()
        for each in service.connections:
            each.shutdown()
        sessions.release("a")
        with pytest.raises(websockets.ConnectionClosed):
            await take_all(connection, seqs := [])
        assert connection.close_code == 1012
        assert seqs == [*range(len(sessions.calls))]
        assert len(seqs) >= 32
        await until(lambda: not service.connections)


async def take_all(connection: ClientConnection, seqs: list[int]) -> None:
    """Append the numbers of all answers."""
    while True:
        seqs.append(read(await connection.recv())["seq"])


async def settled_reading(service: Running) -> None:
    """Let the loop turn, so that what was sent is read."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_idle_stream_closes_at_the_end_of_the_service():
    async with running(sessions=FakeSessions()) as service, raw(service) as client:
        (connection,) = service.connections
        connection.shutdown()
        assert await client.read_close() == 1012
        await client.send(frame(BINARY, step(0)) + frame(CLOSE, (1012).to_bytes(2)))
        assert await client.reader.read() == b""
        await until(lambda: not service.connections)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_unix_socket(tmp_path: Path, run: Callable[..., None]):
    path = tmp_path / "socket"

    async def exchange() -> None:
        async with running(sessions=FakeSessions(), unix_socket=path) as service:
            async with websockets.unix_connect(
                str(path), "ws://localhost/v1/sessions/a/stream", compression=None
            ) as connection:
                for seq in range(3):
                    await connection.send(step(seq))
                    assert read(await connection.recv())["length"] == [seq + 1]
            await until(lambda: not service.connections)

    run(asyncio.wait_for(exchange(), 60))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tls(authority: Authority, loop: str):
    certificates = Certificates(authority.issue("service"))

    async def run() -> None:
        sessions = FakeSessions()
        async with running(certificates=certificates, sessions=sessions) as service:
            host, port = service.address
            url = f"wss://localhost:{port}/v1/sessions/a/stream"
            async with websockets.connect(
                url, ssl=authority.client_context(), max_size=None, compression=None, host=host
            ) as connection:
                for seq, size in enumerate((4, 2**21, 7)):
                    sending = asyncio.create_task(connection.send(step(seq, size=size)))
                    answer = read(await connection.recv())
                    await sending
                    assert (answer["seq"], len(answer["out"])) == (seq, size)
                await connection.send("text")
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await connection.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1003
            await until(lambda: not service.connections)
            # the handshake, and what follows it, in one record
            tls = authority.client_context()
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname="localhost"
            )
            client = RawClient(reader, writer)
            await client.send(handshake() + frame(BINARY, step(3)) + frame(CLOSE, b""))
            assert b" 101 " in await client.read_header()
            opcode, _ = await client.read_frame()
            assert opcode in (BINARY, CLOSE)
            writer.close()
            await until(lambda: not service.connections)
            assert service.charged_bytes == 0

    (uvloop.run if loop == "uvloop" else asyncio.run)(asyncio.wait_for(run(), 60))


async def test_streams_count_as_connections():
    async with running(sessions=FakeSessions(), max_connections=1) as service:
        async with stream(service) as first:
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with stream(service):
                    pass
            assert refused.value.response.status_code == 503
            await first.send(step(0))
            assert read(await first.recv())["length"] == [1]
        await until(lambda: not service.connections)
        async with stream(service) as again:
            await again.send(step(1))
            assert read(await again.recv())["length"] == [2]
