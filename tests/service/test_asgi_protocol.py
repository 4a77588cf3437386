"""An offer to speak another protocol changes nothing: not the answer, not the connection."""

import asyncio
import json
import logging
import re
import socket

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from service.asgi import io, problems
from service.batching.load_estimate import LoadEstimate
from service.errors import ServiceError
from service.server.asgi_protocol import AsgiProtocol
from service.server.connection_limits import connection_limits
from service.settings import Settings

JAVA = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
BROWSER = {"connection": "keep-alive, Upgrade", "upgrade": "websocket", "Sec-WebSocket-Key": "eA=="}
OFFERS = [
    JAVA,
    BROWSER,
    {"Upgrade": "TLS/1.0, h2c, foo", "Connection": "upgrade"},
    {"Upgrade": "", "Connection": "upgrade"},
    {"UPGRADE": "h2c", "CONNECTION": "UPGRADE", "Empty": ""},
]
# what would look like a head, an offer or a second request, if a body were looked into
HEAD = b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 9\r\n\r\n"
BODY = b"\r\n\r\n" + HEAD + b"\0\xff"


def request(
    body: bytes | None = BODY, chunk: int = 0, path: str = "/a?b=c%20d", **headers
) -> bytes:
    """Return a request; its body is in chunks if they have a size."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is None:
        framed = b""
    elif chunk:
        lines.append("Transfer-Encoding: chunked")
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts)
        framed += b"0\r\nUpgrade: h2c\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
        framed = body
    return "\r\n".join([*lines, "", ""]).encode() + framed


class Wire:
    """What a transport is to the protocol, with what was written to it."""

    def __init__(self, protocol: AsgiProtocol) -> None:
        self._protocol = protocol
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    write_eof = close
    """The client closes when it has read the end."""

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


async def tell(scope, receive, send) -> None:
    """Answer with the request as the application received it, or with the refusal."""
    try:
        if io.REFUSAL in scope:
            raise scope[io.REFUSAL]
        content, status = await read(scope, receive), 200
    except ServiceError as failure:
        status, _, content, *_ = problems.describe(failure)
    length = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": length})
    await send({"type": "http.response.body", "body": content})


async def read(scope, receive) -> bytes:
    """Return what the application is told of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    told = [scope["method"], scope["path"], scope["query_string"].decode(), scope["http_version"]]
    told += [body.decode("latin1"), [pair for pair in headers if pair[0] not in OFFERING]]
    return json.dumps(told).encode()


OFFERING = {"connection", "upgrade", "http2-settings", "sec-websocket-key", "empty"}
CONFIG = uvicorn.Config(tell, http=AsgiProtocol, ws="none", log_config=None, access_log=False)
CONFIG.load()
SETTINGS = Settings()


async def answers(*packets: bytes) -> Wire:
    """Return the wire after all packets came, one by one."""
    state = ServerState()
    limits = connection_limits(SETTINGS, LoadEstimate(60))
    protocol = AsgiProtocol(limits, CONFIG, state, {}, asyncio.get_running_loop())
    wire = Wire(protocol)
    protocol.connection_made(wire)
    async with asyncio.timeout(60):
        for packet in packets:
            if not wire.closed:
                protocol.data_received(packet)
            await asyncio.sleep(0)
        while state.tasks:
            await asyncio.wait(state.tasks)
    return wire


def told(wire: Wire) -> list[list[object]]:
    """Return each request as the application received it."""
    parts = re.split(rb"HTTP/1.1 200 OK\r\n(?:[^\r]+\r\n)*\r\n", wire.written)
    assert parts[0] == b""
    return [json.loads(part) for part in parts[1:]]


@pytest.mark.parametrize("chunk", [0, 5, 1000], ids=["length", "small chunks", "one chunk"])
@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: next(iter(offer.values())) or "empty")
async def test_wherever_packets_end(offer, chunk, caplog):
    """Three requests, the middle one with an offer, in two packets that end anywhere."""
    first, last = request(path="/first"), request(None, path="/last")
    plain = told(await answers(first, request(chunk=chunk), last))
    assert [each[1] for each in plain] == ["/first", "/a", "/last"]
    assert [each[4].encode("latin1") for each in plain] == [BODY, BODY, b""]
    stream = first + request(chunk=chunk, **offer) + last
    for at in range(len(stream)):
        assert told(await answers(stream[:at], stream[at:])) == plain, at
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


@given(st.data())
def test_any_requests_in_any_packets(data):
    """What the application is told is what it is told of the same requests without offers."""
    drawn = data.draw(
        st.lists(
            st.tuples(
                st.none() | st.binary(max_size=40) | st.just(BODY),
                st.integers(0, 9),
                st.sampled_from([{}, *OFFERS]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    stream = b"".join(request(body, chunk, **offer) for body, chunk, offer in drawn)
    ends = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    packets = [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]

    async def both() -> None:
        plain = await answers(*(request(body, chunk) for body, chunk, _ in drawn))
        assert len(told(plain)) == len(drawn)
        assert told(await answers(*packets)) == told(plain)

    asyncio.run(both())


async def test_byte_by_byte():
    stream = request(**JAVA) + request(chunk=7, **BROWSER)
    assert told(await answers(*(bytes([byte]) for byte in stream))) == told(
        await answers(request(), request(chunk=7))
    )


async def test_thousands_behind_each_other_in_one_packet():
    wire = await answers(request(b"ab", **JAVA) * 3000)
    assert [each[4] for each in told(wire)] == ["ab"] * 3000


async def test_a_request_gets_a_list_of_headers_of_its_own(monkeypatch):
    """Also where the same header was parsed before."""

    async def change(scope, receive, send) -> None:
        scope["headers"].append((b"changed", b"yes"))
        await tell(scope, receive, send)

    monkeypatch.setattr(CONFIG, "loaded_app", change)
    first, second = told(await answers(request() * 2))
    assert first == second
    assert [name for name, _ in first[5]].count("changed") == 1


async def test_a_head_without_end_is_refused():
    packets = [b"GET / HTTP/1.1\r\nA: ", *[b"a" * 2**12] * 18]
    wire = await answers(*packets)
    assert wire.written.startswith(b"HTTP/1.1 431 ")
    assert wire.closed
    assert not (await answers(*packets[:8])).written


async def test_what_comes_before_a_head_is_not_its_length():
    long = request(bytes(2**18))
    wire = await answers(long + long[:40], long[40:])
    assert len(told(wire)) == 2


async def test_the_last_request_stays_the_last():
    offer = {"Upgrade": "h2c", "Connection": "close, upgrade"}
    wire = await answers(request(**offer) + request(path="/behind"))
    assert wire.closed
    assert b"/behind" not in wire.written
    assert b"connection: close" in wire.written


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_version_is_kept(version):
    wire = await answers(request(**JAVA).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    assert told(wire)[0][3] == version
    assert wire.closed == (version == "1.0")


async def test_a_client_that_waits_is_told_to_go_on():
    wire = await answers(request(Expect="100-continue", **JAVA))
    assert wire.written.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "wrong",
    [
        request(b"ab", **JAVA).replace(b"Content-Length: 2", b"Content-Length: x"),
        request(b"ab", **JAVA, **{"Transfer-Encoding": "chunked"}),
        request(b"ab", **JAVA, **{"Content-Length": "3"}),
        request(b"ab", 1, **JAVA).replace(b"1\r\na", b"z\r\na"),
        request(b"ab", **JAVA, X="a\r\n b"),
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"CONNECT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n",
    ],
    ids=["length", "both framings", "two lengths", "chunk", "folded", "CONNECT", "both", "path"],
)
async def test_what_is_wrong_ends_the_connection(wrong):
    """With what is behind it unread, so that nobody's request can hide there."""
    wire = await answers(wrong + request(path="/behind"))
    assert wire.closed
    assert wire.written.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"/behind" not in wire.written


def ask(url: str, *packets: bytes) -> bytes:
    """Return all that a service answers; the last request must close the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
        with connection.makefile("rb") as answer:
            return answer.read()


def test_the_service_answers_offers(server_url):
    """On /v1 and on /v2, over sockets."""
    rotate = b'{"q": [[[1, 0]], [[1, 0]]], "positions": [0, 1]}'
    infer = (
        b'{"inputs":[{"name":"q","shape":[1,1,1,2],"datatype":"FP32","data":[1,0]},'
        b'{"name":"positions","shape":[1],"datatype":"INT64","data":[1]}]}'
    )
    last = {**JAVA, "Connection": "Upgrade, HTTP2-Settings, close"}
    for headers in (JAVA, BROWSER):
        json_kind = {"Content-Type": "application/json"}
        stream = request(rotate, path="/v1/rotate", **headers, **json_kind)
        stream += request(infer, 10, path="/v2/models/rope/infer", **headers)
        stream += request(None, path="/healthz", **last)
        for at in range(30, len(stream), 41):
            answer = ask(server_url, stream[:at], stream[at:])
            assert answer.count(b"HTTP/1.1 200 OK") == 3, answer
            assert answer.count(b"0.5403023,") == 2
