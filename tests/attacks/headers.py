"""Section H: header fields of otherwise valid requests."""

from tests.attacks.binary import GOOD, infer
from tests.attacks.requests import ROTATE, SAFETENSORS, Row, entry, post, safetensors, send

DEADLINE = "X-Request-Timeout-Ms"
PACKED = safetensors({"q": entry([1, 1, 1, 2], 0, 8)}, bytes(8))


def late(id_: str, value: object) -> Row:
    """Return a row of an invalid timeout."""
    return Row(id_, post(ROTATE, f"{DEADLINE}: {value}"), 400, "bad_header")


def good(id_: str, *lines: str) -> Row:
    """Return a row whose fields change nothing."""
    return Row(id_, post(ROTATE, *lines), 200)


def odd(id_: str, *lines: str) -> list[Row]:
    """Return rows whose fields change nothing: as JSON, safetensors and binary inference."""
    return [
        good(id_, *lines),
        Row(f"{id_} safetensors", send(PACKED, SAFETENSORS, *lines), 200),
        Row(f"{id_} infer", infer(GOOD, *[b"\0" * 8], None, *lines), 200),
    ]


ROWS = [
    late("H01", 0),
    late("H02", -1),
    late("H03", "nan"),
    late("H04", 10**30),
    late("H04 fraction", 1.5),
    late("H04 empty", ""),
    late("H04 other digits", "\xb2"),
    Row(
        "H04 twice",
        post(ROTATE, f"{DEADLINE}: 1000", f"{DEADLINE}: 2000"),
        400,
        "bad_header",
        closes=True,
    ),
    *odd("H05", "X-Request-Id: " + "a" * 2**13),
    *odd("H06", 'X-Request-Id: a\x9b\xe2\x80\xae{}"\t\xff'),
    Row("H06 escape", post(ROTATE, "X-Request-Id: a\x1b[31m"), 400, "bad_request", closes=True),
    *odd("H06 twice", "X-Request-Id: a", "X-Request-Id: b"),
    *odd("H07", "traceparent: 00-zz", "tracestate: " + "=" * 512),
    good("H07 long", "traceparent: " + "0" * 2**13),
    *odd("H08", "Range: bytes=0-1", "If-Match: x", "TE: trailers", "Upgrade-Insecure-Requests: 1"),
    *odd("H09", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: ::1", "Forwarded: for=127.0.0.1"),
    *odd("H10", "X-HTTP-Method-Override: DELETE"),
    *odd("H11", "Origin: https://evil.example"),
    Row("H12", post(ROTATE, "Accept: text/html"), 406, "not_acceptable"),
    Row("H12 long", post(ROTATE, "Accept: " + "a/b," * 4000), 406, "not_acceptable"),
    good("H12 any", "Accept: text/html, */*;q=0.1"),
]
