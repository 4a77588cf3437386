"""No client can tell whether a request has a plan: the same bytes get the same answers."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import pytest_asyncio

from tests.service.planned.requests import VARYING, attention, encode, post, rotation
from tests.service.planned.servers import Running, running, settled, until

KNOWN = rotation(16).request
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LIMITS = {"max_body_bytes": 2**20, "max_json_bytes": 2**18}

Pair = tuple[Running, Running]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair() -> AsyncIterator[Pair]:
    """A service with planned requests, and one without."""
    async with running(**LIMITS) as one, running("ordinary", **LIMITS) as other:
        yield one, other


async def read_all(service: Running, stream: bytes, *ends: int) -> tuple[bytes, str]:
    """Return all that a client reads, and how the connection ends, if it leaves once all is quiet.

    Args:
        service: the service under test.
        stream: what the client sends.
        ends: where packets end.
    """
    reader, writer = await asyncio.open_connection(*service.address)
    packets = [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]
    try:
        for packet in packets:
            writer.write(packet)
            await writer.drain()
            await settled(service)
    except ConnectionError:
        pass
    num_turns, num_bytes = 0, -1
    while num_turns < 30 and not reader.at_eof():
        await asyncio.sleep(0)
        num_turns = num_turns + 1 if num_bytes == len(reader._buffer) else 0
        num_bytes = len(reader._buffer)
    end = "closed by the service" if reader.at_eof() else "open"
    try:
        if end == "open":
            with suppress(RuntimeError, OSError):  # the service closes just now
                writer.write_eof()
        received = await reader.read()
    except ConnectionError as failure:
        received, end = bytes(reader._buffer), type(failure).__name__
    writer.close()
    return VARYING.sub(b"", received), end


async def check_equal(pair: Pair, stream: bytes, *ends: int) -> bytes:
    """Return what both services answer to the same stream."""
    one, other = pair
    planned = await read_all(one, stream, *ends)
    ordinary = await read_all(other, stream, *ends)
    assert planned == ordinary, stream[:300]
    await settled(one)
    await until(lambda: (one.charged_bytes, one.num_waiting) == (0, 0))
    return planned[0]


def bad_bodies() -> Iterator[bytes]:
    body = KNOWN[KNOWN.index(b"\r\n\r\n") + 4 :]
    size = int.from_bytes(body[:8], "little")
    text = body[8 : 8 + size]
    yield from (b"", b"1234567", b"12345678", b"\xff" * 8, body[:-1], body + b"x", body[: 8 + size])
    yield (size + 8).to_bytes(8, "little") + body[8:]
    for old, new in (
        (b'"F32"', b'"F16"'),
        (b'"F32"', b'"F99"'),
        (b'"q"', b'"x"'),
        (b'"positions"', b'"position"'),
        (b"[1,16,8,64]", b"[1,16,64,8]"),
        (b"[1,16,8,64]", b"[1,16,8,65]"),
        (b"theta", b"thetb"),
        (b"10000", b"-1"),
    ):
        changed = text.replace(old, new)
        changed += b" " * (-len(changed) % 8)
        yield len(changed).to_bytes(8, "little") + changed + body[8 + size :]


def bad_numbers() -> Iterator[bytes]:
    positions = KNOWN[-16 * 8 :]
    for position in (-1, 2**31, 2**62, -(2**63)):
        yield (
            KNOWN[: -len(positions)]
            + positions[:40]
            + position.to_bytes(8, "little", signed=True)
            + positions[48:]
        )
    start = KNOWN.index(b"\r\n\r\n") + 400
    for bits in (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff"):
        yield KNOWN[:start] + bits * 64 + KNOWN[start + 256 :]


def headers() -> Iterator[bytes]:
    """Return requests whose headers are unusual or wrong."""
    header, _, body = KNOWN.partition(b"\r\n\r\n")
    line, *fields = header.split(b"\r\n")
    for old, new in (
        (b"POST", b"PUT"),
        (b"POST", b"GET"),
        (b"POST", b"post"),
        (b"/v1/rotate", b"/v1/rotate?a=b"),
        (b"/v1/rotate", b"/v1/rotate/"),
        (b"/v1/rotate", b"/v1/%72otate"),
        (b"/v1/rotate", b"http://x/v1/rotate"),
        (b"/v1/rotate", b"/v1/attention"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"HTTP/2.0"),
        (b" HTTP", b"  HTTP"),
    ):
        yield b"\r\n".join([line.replace(old, new), *fields]) + b"\r\n\r\n" + body
    for more in (
        b"Accept: application/json",
        b"Accept: */*",
        b"Accept: text/html",
        b"Content-Encoding: gzip",
        b"Content-Encoding: identity",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Proxy-Connection: close",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA",
        b"Host: y",
        b"Content-Length: 3",
        b"Content-Type: application/json",
        b"X-Request-Timeout-Ms: 60000",
        b"X-Request-Timeout-Ms: 0",
        b"X-Request-Timeout-Ms: soon",
        b"X-Request-Id: mine",
        b"X-Request-Id: not for a log",
        b"X-Request-Id: a\r\nX-Request-Id: b",
        b"x-request-id:",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"A: b\r\n c",
        b"A : b",
        b"A",
        b"A: \0",
        b"A: \xff",
        b"A: " + b"a" * 5000,
        b"A: " + b"a" * 70_000,
    ):
        yield b"\r\n".join([line, *fields, more]) + b"\r\n\r\n" + body
        yield b"\r\n".join([line, more, *fields]) + b"\r\n\r\n" + body
    for number in (b"-1", b"+5", b"0x10", b" 33000", b"33000 ", b"3e4", b"", b"9" * 13, b"2097152"):
        changed = re.sub(rb"content-length: \d+", b"content-length: " + number, header)
        yield changed + b"\r\n\r\n" + body
    yield header.replace(b"host: x\r\n", b"") + b"\r\n\r\n" + body
    yield header.replace(b"\r\n", b"\n") + b"\n\n" + body
    yield b"\r\n\r\n" + KNOWN
    yield b"\r\nX-Request-Id: a\r\n" + KNOWN  # a field before the request line
    yield b"\n\r\ntraceparent: a\r\n" + KNOWN


STREAMS = {
    "bodies": [post("/v1/rotate", body) for body in bad_bodies()],
    "numbers": [*bad_numbers()],
    "headers": [*headers()],
    "requests": [
        attention(16).request,
        post("/v1/rotate", b'{"q":[[[1,0]]]}', content_type="application/json"),
        post("/v1/rotate", encode({})),
        post("/v1/nowhere", b"x"),
        LAST.replace(b"close", b"keep-alive"),
    ],
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", STREAMS)
async def test_equal_answers(pair: Pair, kind: str):
    """Twice on a connection, behind and before a known request: alone, and then as one packet."""
    for request in STREAMS[kind]:
        stream = KNOWN + request + request + KNOWN + LAST
        ends = [len(KNOWN), len(KNOWN + request), len(KNOWN + request + request)]
        await check_equal(pair, stream)
        answers = await check_equal(pair, stream, *ends)
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        await check_equal(pair, request[: len(request) // 2])
    assert pair[0].statuses.count(200) > len(STREAMS[kind]), "known requests are planned"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("seed", range(3))
async def test_equal_answers_to_changed_bytes(pair: Pair, seed: int):
    """Some bytes of a header or of a description are others, missing, or there twice."""
    rng = random.Random(seed)
    start = KNOWN.index(b"\r\n\r\n") + 300
    for _ in range(40):
        changed = bytearray(KNOWN)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(start)
            match rng.randrange(3):
                case 0:
                    changed[at] = rng.choice((rng.randrange(256), *b'\r\n :,0Aa\t\0{}[]"'))
                case 1:
                    del changed[at : at + rng.choice((1, 1, 2, 20))]
                case 2:
                    changed[at:at] = changed[at : at + rng.choice((1, 2, 20))]
        end = rng.randrange(len(changed))
        stream = KNOWN + bytes(changed) + KNOWN + LAST
        await check_equal(pair, stream)
        await check_equal(pair, stream, len(KNOWN), len(KNOWN) + end)
