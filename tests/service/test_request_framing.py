"""Headers and chunked bodies mean the same however they are cut, and what llhttp says they mean."""

from contextlib import suppress

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.asgi.request_body import MAX_FRAMING_BYTES, ChunkedBody, SizedBody
from service.asgi.request_header import (
    MAX_CACHED_HEADERS,
    HeaderLimits,
    HeaderParser,
    RequestHeaderCache,
)
from service.errors import BadRequest, HeaderTooLarge, ServiceError

LIMITS = HeaderLimits(max_bytes=200, max_fields=4, max_target_bytes=40)


def cut(data: bytes, ends: list[int]) -> list[bytes]:
    """Return the pieces of `data` that end at `ends`."""
    ends = sorted({end % (len(data) + 1) for end in ends})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def parse(pieces: list[bytes]) -> object:
    """Return the header and what is behind it, the error, or None if the header has no end."""
    parser = HeaderParser(LIMITS)
    for i, piece in enumerate(pieces):
        try:
            end = parser.feed(piece, 0)
            header = parser.result()
        except ServiceError as failure:
            return type(failure), str(failure)
        if header is not None:
            return header, piece[end:] + b"".join(pieces[i + 1 :])
        assert end == len(piece)
    return None


PARTS = (
    *(b"GET ", b"POST ", b"CONNECT ", b"/", b"/a%20b?c", b"http://h/p", b"*", b" HTTP/1.1\r\n"),
    *(b" HTTP/1.0\r\n", b"Host: x\r\n", b"Host: x/y\r\n", b"host:\r\n", b"Content-Length: 5\r\n"),
    *(b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"A: b\r\n", b"A: " + b"c" * 60 + b"\r\n"),
    *(b" d\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\xff", b"x" * 50),
)
HEADERS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join),
    st.lists(st.sampled_from(PARTS), max_size=6).map(
        lambda parts: b"POST /a HTTP/1.1\r\nHost: x\r\n" + b"".join(parts) + b"\r\nbehind"
    ),
)


@given(HEADERS, st.lists(st.integers(0, 400)))
@example(b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nGET", [])
@example(b"GET /" + b"a" * 40 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * 4 + b"\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: x\r\nA:" + b" " * 300, [])
@example(b"GET / HTTP/1.1\r\nHost: x\r\nA: \xff\r\n\r\n", [])
def test_a_header_is_the_same_wherever_it_is_cut(data, ends):
    whole = parse([data])
    assert parse(cut(data, ends)) == whole
    assert parse([bytes([byte]) for byte in data]) == whole


@pytest.mark.parametrize("size", [199, 200, 201])
def test_the_limit_of_a_header_is_exact(size):
    start = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    data = start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"
    assert len(data) == size
    (result, _) = parse([data])
    assert (result is HeaderTooLarge) == (size > 200)


@given(HEADERS, HEADERS)
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r")
def test_a_header_that_was_parsed_before_means_the_same(known, data):
    cache = RequestHeaderCache(LIMITS)
    parser = HeaderParser(LIMITS)
    with suppress(ServiceError):
        end = parser.feed(known, 0)
        header = parser.result()
        if header is not None:
            cache.add(known[:end], header)
            assert cache.find(b"behind" + known, 6) == (header, 6 + end)
    found = cache.find(data, 0)
    if found is not None:
        assert parse([data]) == (found[0], data[found[1] :])


def test_few_headers_are_kept():
    cache, parser = RequestHeaderCache(LIMITS), HeaderParser(LIMITS)
    parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0)
    header = parser.result()
    texts = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(MAX_CACHED_HEADERS + 1)]
    for text in texts:
        cache.add(text, header)
    assert [text for text in texts if cache.find(text, 0)] == texts[-1:]


class Oracle:
    """What llhttp says of a chunked body."""

    def __init__(self) -> None:
        self.body, self.is_complete = b"", False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def read(self, data: bytes) -> bool:
        """Return whether the body is valid as far as it goes."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            return False
        return True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def unchunk(pieces: list[bytes]) -> tuple[bytes, bool, bytes] | str:
    """Return the body, whether it is complete, and what is behind it, or the error."""
    reader, body = ChunkedBody(), bytearray()
    for i, piece in enumerate(pieces):
        try:
            end = reader.feed(piece, 0, body)
        except BadRequest as failure:
            return str(failure)
        if reader.is_complete:
            return bytes(body), True, piece[end:] + b"".join(pieces[i + 1 :])
    return bytes(body), False, b""


CHUNK_PARTS = (
    *(
        b"0\r\n\r\n",
        b"0\r\n",
        b"1\r\na\r\n",
        b"A\r\n0123456789\r\n",
        b"2\r\n\r\n\r\n",
        b"3;x=y\r\n",
    ),
    *(b"abc\r\n", b"abc", b"\r\n", b"\n", b"\r", b";", b"0x1\r\n", b"-1\r\n", b" ", b"T: v\r\n"),
    *(b"1" * 17 + b"\r\n", b"f" * 16 + b"\r\n", b"00\r\n\r\n", b"g\r\n", b"T : v\r\n", b"1;\n\r\n"),
)


@given(st.lists(st.sampled_from(CHUNK_PARTS), max_size=10).map(b"".join), st.lists(st.integers(0)))
@example(b"1\r\na\r\n0\r\nA: b\r\n\r\nbehind", [3])
@example(b"f" * 16 + b"\r\nabc", [])
def test_a_chunked_body_is_what_llhttp_says(data, ends):
    whole = unchunk([data])
    if isinstance(whole, str):
        assert isinstance(unchunk(cut(data, ends)), str)
        return
    assert unchunk(cut(data, ends)) == whole
    body, is_complete, behind = whole
    oracle = Oracle()
    is_valid = oracle.read(data[: len(data) - len(behind)])
    if is_complete:  # what is accepted, llhttp accepts and reads in the same way
        assert is_valid
        assert (oracle.body, oracle.is_complete) == (body, True)


def test_framing_is_limited_beside_the_body():
    tiny = b"1\r\na\r\n"
    allowed = MAX_FRAMING_BYTES // 5  # a chunk of one byte has five bytes of framing
    body = bytearray()
    ChunkedBody().feed(tiny * allowed, 0, body)
    assert len(body) == allowed
    with pytest.raises(BadRequest, match="65,536"):
        ChunkedBody().feed(tiny * allowed * 2, 0, body)
    large = b"a" + b"\r\n" + b"0123456789" + b"\r\n"
    ChunkedBody().feed(large * 50_000, 0, body)  # half of the body's bytes


def test_trailers_are_limited():
    start = b"1\r\na\r\n0\r\n"
    with pytest.raises(BadRequest, match="trailers"):
        ChunkedBody().feed(start + b"A: b\r\n" * MAX_FRAMING_BYTES, 0, bytearray())


@given(st.binary(max_size=30), st.integers(0, 20), st.lists(st.integers(0, 30)))
def test_a_sized_body_ends_where_its_length_says(data, size, ends):
    reader, body, behind = SizedBody(size), bytearray(), b""
    for piece in cut(data, ends):
        behind += piece[reader.feed(piece, 0, body) :]
    assert (bytes(body), behind) == (data[:size], data[size:])
    assert reader.is_complete == (len(data) >= size)
