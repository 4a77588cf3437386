"""Section L: limits of headers and bodies, `Expect` and `Upgrade`."""

from tests.attacks.requests import (
    CHUNKED,
    INFER,
    JSON,
    MAX_JSON_BYTES,
    ROTATE,
    SAFETENSORS,
    TEN_GIB,
    Row,
    get,
    header,
    post,
)

CONTINUE = "Expect: 100-continue"


def declared(num_bytes: int, *lines: str, **parts: str) -> bytes:
    """Return the header of a body that is not sent."""
    return header(*(lines or (JSON,)), f"Content-Length: {num_bytes}", **parts)


def endless(*lines: str, **parts: str) -> bytes:
    """Return a request whose chunked body exceeds the limit and does not end."""
    start = header(*lines, CHUNKED, **parts)
    return start + b"%x\r\n" % (4 * MAX_JSON_BYTES) + b" " * (2 * MAX_JSON_BYTES)


ROWS = [
    Row("L01", post(ROTATE, path="/" + "a" * 100 * 2**10), 414, "target_too_long", closes=True),
    Row("L01 9 KiB", post(ROTATE, path="/" + "a" * 9 * 2**10), 414, "target_too_long", closes=True),
    Row("L01 query", post(ROTATE, path="/v1/rotate?" + "a" * 2**13), 414, "target_too_long", True),
    Row("L01 8 KiB", post(ROTATE, path="/" + "a" * (2**13 - 1)), 404, "not_found"),
    Row("L02", post(ROTATE, "X: " + "a" * 2**16), 431, "header_too_large", closes=True),
    Row("L02 name", post(ROTATE, "a" * 2**16 + ": x"), 431, "header_too_large", closes=True),
    Row("L02 cookie", post(ROTATE, "Cookie: " + "a=b; " * 2**14), 431, "header_too_large", True),
    Row(
        "L03",
        lambda: header()[:-2] + b"X: " + b"a" * 2**23,
        431,
        "header_too_large",
        closes=True,
    ),
    Row("L03 empty lines", b"\r\n" * 2**15, 431, "header_too_large", closes=True),
    Row("L04", post(ROTATE, *["A: b"] * 10_000), 431, "header_too_large", closes=True),
    Row("L04 101 fields", post(ROTATE, *["A: b"] * 98), 431, "header_too_large", closes=True),
    Row("L04 100 fields", post(ROTATE, *["A: b"] * 97), 200),
    Row("L05", declared(TEN_GIB), 413, "too_large", closes=True),
    Row("L05 safetensors", declared(TEN_GIB, SAFETENSORS), 413, "too_large", closes=True),
    Row("L05 infer", declared(TEN_GIB, path=INFER), 413, closes=True),
    Row("L06", declared(MAX_JSON_BYTES + 1), 413, "too_large", closes=True),
    Row("L06 infer", declared(MAX_JSON_BYTES + 1, path=INFER), 413, closes=True),
    Row("L06 control", declared(TEN_GIB, path="/v2/repository/index"), 413, closes=True),
    Row("L07", declared(2**63 - 1), 413, "too_large", closes=True),
    Row("L07 2**64 - 1", declared(2**64 - 1), 413, "too_large", closes=True),
    Row("L08", lambda: endless(JSON), 413, "too_large", closes=True),
    Row("L08 infer", lambda: endless(path=INFER), 413, closes=True),
    Row("L09", declared(TEN_GIB, JSON, CONTINUE), 413, "too_large", closes=True),
    Row("L09 case", declared(TEN_GIB, JSON, "Expect: 100-Continue"), 413, "too_large", True),
    Row("L10", post(ROTATE, "Expect: something-else"), 417, "expectation_failed", closes=True),
    Row("L10 twice", post(ROTATE, CONTINUE, "Expect: x"), 417, "expectation_failed", closes=True),
    Row("L10 HTTP/1.0", post(ROTATE, "Expect: x", version="1.0"), 200, closes=True),
    Row(
        "L11",
        get("/v1/rotate", "Upgrade: websocket", "Connection: upgrade"),
        405,
        "method_not_allowed",
        headers={"allow": "POST"},
    ),
    Row("L12", post(ROTATE, "Upgrade: h2c", "Connection: upgrade"), 200),
    Row("L12 keep-alive", post(ROTATE, "Connection: close, keep-alive"), 200, closes=True),
    Row("L12 close", post(ROTATE, "Connection: x-other, Close"), 200, closes=True),
    Row("L12 twice", post(ROTATE, "Connection: keep-alive", "Connection: close"), 200, closes=True),
]
