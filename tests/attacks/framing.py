"""F: framing, which decides where a request ends."""

from tests.attacks.requests import CHUNKED, JSON, ROTATE, Row, chunks, get, header, post


def refused(id_: str, request: bytes, code: str = "bad_request") -> Row:
    """Return a row whose request is refused; nothing behind the request is run."""
    return Row(id_, request, 400, code, closes=True)


def coded(*lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Return a request of JSON with other lines, and bytes behind its header."""
    return header(JSON, *lines, version=version) + body


ONE = chunks(b"a")
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"

ROWS = [
    refused("F01", coded("Content-Length: 5", CHUNKED, body=ONE)),
    refused("F02", coded(CHUNKED, "Content-Length: 5", body=ONE)),
    refused("F03", coded("Content-Length: 5", "Content-Length: 6", body=b"hello")),
    refused("F03 equal", coded("Content-Length: 5", "Content-Length: 5", body=b"hello")),
    refused("F03 list", coded("Content-Length: 5, 5", body=b"hello")),
    refused("F04", coded("Content-Length: +5", body=b"hello")),
    refused("F05", coded("Content-Length: -1")),
    refused("F06", coded("Content-Length: 0x5", body=b"hello")),
    refused("F06 empty", coded("Content-Length:", body=b"hello")),
    refused("F06 spaces", coded("Content-Length: 5 5", body=b"hello")),
    refused("F06 underscore", coded("Content-Length: 1_0", body=b"hello")),
    refused("F06 other digits", coded("Content-Length: \xb2", body=b"hello")),
    refused("F07", coded(f"Content-Length: {2**64 + 5}", body=b"hello")),
    refused("F08", coded("Transfer-Encoding: xchunked", body=ONE)),
    refused("F08 case", coded("Transfer-Encoding: chunked\x0b", body=ONE)),
    refused("F09", coded("Transfer-Encoding: chunked, identity")),
    refused("F09 gzip", coded("Transfer-Encoding: gzip, chunked"), "bad_header"),
    refused("F09 twice", coded(CHUNKED, CHUNKED, body=ONE)),
    refused("F09 identity", coded("Transfer-Encoding: identity", body=ONE)),
    refused("F09 list", coded("Transfer-Encoding: chunked, chunked", body=ONE)),
    refused("F09 empty", coded("Transfer-Encoding:", body=ONE)),
    refused("F10", coded("Transfer-Encoding : chunked", body=ONE)),
    refused("F10 length", coded("Content-Length : 5", body=b"hello")),
    refused("F10 tab", coded("Content-Length\t: 5", body=b"hello")),
    refused("F11", coded("Transfer-Encoding:\r\n chunked", body=ONE)),
    refused("F11 first", b"POST / HTTP/1.1\r\n Host: x\r\nContent-Length: 5\r\n\r\nhello"),
    refused("F12", coded(CHUNKED, body=b"-1\r\n")),
    refused("F13", coded(CHUNKED, body=b"0x1\r\na\r\n")),
    refused("F13 empty", coded(CHUNKED, body=b"\r\na\r\n")),
    refused("F13 space", coded(CHUNKED, body=b"1 \r\na\r\n0\r\n\r\n")),
    refused("F14", coded(CHUNKED, body=b"1" * 17 + b"\r\na")),
    refused("F15", coded(CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n")),
    refused("F16", coded(CHUNKED, body=b"1\na\n0\n\n")),
    refused("F16 data", coded(CHUNKED, body=b"1\r\na\n0\r\n\r\n")),
    refused("F16 carriage return", coded(CHUNKED, body=b"1\ra\r0\r\r")),
    refused("F16 extension", coded(CHUNKED, body=b"1;a\nb\r\na\r\n0\r\n\r\n")),
    refused("F16 end", coded(CHUNKED, body=b"0\r\nX: y\n\r\n")),
    refused("F17", coded(CHUNKED, body=chunks(ROTATE), version="1.0"), "bad_header"),
    refused("F18", post(ROTATE, host=""), "bad_header"),
    Row("F18 HTTP/1.0", post(ROTATE, host="", version="1.0"), 200, closes=True),
    refused("F19", post(ROTATE, "Host: y"), "bad_header"),
    refused("F19 equal", post(ROTATE, "Host: x"), "bad_header"),
    refused("F19 HTTP/1.0", post(ROTATE, "Host: x", version="1.0"), "bad_header"),
    refused("F20", post(ROTATE, host="Host: x/healthz?"), "bad_header"),
    refused("F20 user", post(ROTATE, host="Host: user@x"), "bad_header"),
    refused("F20 port", post(ROTATE, host="Host: x:http"), "bad_header"),
    refused("F20 space", post(ROTATE, host="Host: x y"), "bad_header"),
    refused("F20 list", post(ROTATE, host="Host: x, y/"), "bad_header"),
    refused("F20 high byte", post(ROTATE, host="Host: x\xff"), "bad_header"),
    Row("F20 name", post(ROTATE, host="Host: a-b.example:8000"), 200),
    Row("F20 IPv6", post(ROTATE, host="Host: [::1]:8000"), 200),
    Row("F20 empty", post(ROTATE, host="Host:"), 200),
    refused("F21", post(ROTATE, "X: a\0b")),
    refused("F21 name", post(ROTATE, "X\0: a")),
    refused("F21 target", post(ROTATE, path="/v1/rotate\0")),
    refused("F22", post(ROTATE, "X: a\rb")),
    refused("F22 end", GET + b"X: a\r\r\n\r\n"),
    refused("F22 line feed", GET + b"X: a\nY: b\r\n\r\n"),
    refused("F22 request line", b"GET /healthz HTTP/1.1\nHost: x\n\n"),
    refused("F23", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64)),
    refused("F23 version", b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n"),
    refused("F23 HTTP/1.2", b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n"),
    refused("F23 HTTP/0.9", b"GET /healthz\r\n\r\n"),
    refused("F23 HTTP/1.10", b"GET /healthz HTTP/1.10\r\nHost: x\r\n\r\n"),
    refused("F23 lower case", b"GET /healthz http/1.1\r\nHost: x\r\n\r\n"),
    Row("F23 spaces", b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),  # RFC 9112, 3
    refused("F23 tab", b"GET\t/healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused("F23 behind", b"GET /healthz HTTP/1.1 \r\nHost: x\r\n\r\n"),
    refused("F24", bytes.fromhex("16030100c8010000c40303") + bytes(range(200))),
    refused("F25", bytes(range(128, 256)) * 8),
    refused("F25 name", GET + b": a\r\n\r\n"),
    refused("F25 name with a space", GET + b"X Y: a\r\n\r\n"),
    refused("F25 high byte in a name", GET + b"X\xff: a\r\n\r\n"),
    refused("F25 no colon", GET + b"Host\r\n\r\n"),
    Row("F25 high byte in a value", GET + b"X: \xff\xfe\r\n\r\n", 200),
    Row("F27", lambda: coded(CHUNKED, body=chunks(*[b" "] * 100_001)), 400, "bad_request", True),
    Row(
        "F28",
        lambda: coded(CHUNKED, body=b"1;" + b"x" * 2**20 + b"\r\na\r\n"),
        400,
        "bad_request",
        closes=True,
    ),
    Row(
        "F28 short",
        coded(CHUNKED, body=b'%x;a="b";c\r\n' % len(ROTATE) + ROTATE + b"\r\n0\r\n\r\n"),
        200,
    ),
    Row(
        "F29",
        lambda: coded(CHUNKED, body=chunks(ROTATE, trailer=b"X: " + b"a" * 2**20 + b"\r\n")),
        400,
        "bad_request",
        closes=True,
    ),
    Row(
        "F30",
        header(CHUNKED) + chunks(ROTATE, trailer=b"Content-Type: application/json\r\n"),
        415,
        "unsupported_media_type",
    ),
    Row("F30 kept", coded(CHUNKED, body=chunks(ROTATE, trailer=b"A: b\r\n")), 200),
    Row(
        "F30 framing",
        coded(
            CHUNKED,
            body=chunks(ROTATE, trailer=b"Content-Length: 99\r\n" + CHUNKED.encode() + b"\r\n"),
        ),
        200,
    ),
    refused("F30 folded", coded(CHUNKED, body=chunks(trailer=b"A: b\r\n c\r\n"))),
    refused("F30 no name", coded(CHUNKED, body=chunks(trailer=b": b\r\n"))),
    refused("F30 high byte", coded(CHUNKED, body=chunks(trailer=b"A\xff: b\r\n"))),
    Row("F32", post(ROTATE, path="http://evil/v1/rotate"), 200),
    Row("F32 authority", get("evil:80"), 400, "bad_request", closes=True),
    Row("F32 relative", get("v1/rotate"), 400, "bad_request", closes=True),
    Row("F32 fragment", post(ROTATE, path="/v1/rotate#a"), 200),
    Row("F32 asterisk", get("*", method="OPTIONS"), 404, "not_found"),
]
