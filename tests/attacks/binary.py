"""Section B: inference with binary tensors behind a JSON part."""

import json
import struct
from typing import Any

from tests.attacks.requests import INFER, OCTETS, Row, post_json, send

DATA = struct.pack("<2f", 1.0, 0.0)
X: dict[str, Any] = {"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 2]}
PLACE: dict[str, Any] = {"name": "positions", "datatype": "INT64", "shape": [1, 1]}
LENGTH = "Inference-Header-Content-Length"


def sized(item: dict[str, Any], size: object) -> dict[str, Any]:
    """Return an input of binary data."""
    return item | {"parameters": {"binary_data_size": size}}


def part(*inputs: dict[str, Any]) -> bytes:
    """Return the JSON part of a request."""
    return json.dumps({"inputs": inputs or [sized(X, 8)]}, ensure_ascii=False).encode()


def infer(text: bytes, data: bytes = DATA, length: object = None, *lines: str) -> bytes:
    """Return a request; its header says the right length of the JSON part if `length` is None."""
    length = len(text) if length is None else length
    return send(text + data, OCTETS, f"{LENGTH}: {length}", *lines, path=INFER)


def wrong(id_: str, request: bytes) -> Row:
    """Return a row of an invalid request."""
    return Row(id_, request, 400)


def size(id_: str, value: object) -> Row:
    """Return a row whose `binary_data_size` is not valid."""
    return wrong(id_, infer(part(sized(X, value))))


GOOD = part()
NAMED = json.dumps({"inputs": [sized(X, 8)], "id": "\u00e9"}, ensure_ascii=False).encode()

ROWS = [
    wrong("B01", infer(GOOD, length=-1)),
    wrong("B02", infer(GOOD, length=99999999999)),
    wrong("B03", infer(GOOD, length=len(GOOD) + 100)),
    wrong("B04", infer(GOOD, length=5)),
    wrong("B05", infer(GOOD, length="ten")),
    wrong("B05 sign", infer(GOOD, length=f"+{len(GOOD)}")),
    wrong("B05 hexadecimal", infer(GOOD, length=hex(len(GOOD)))),
    wrong("B05 empty", infer(GOOD, length="")),
    wrong("B05 other digits", infer(GOOD, length="\xb2")),
    wrong("B06", infer(GOOD, length=0)),
    Row("B07", send(GOOD + DATA, OCTETS, path=INFER), 415),
    Row("B07 data alone", send(DATA, OCTETS, path=INFER), 415),
    Row("B07 NaN", send(part(X | {"data": [1, 0]})[:-1] + b',"id":NaN}', OCTETS, path=INFER), 400),
    Row("B07 JSON", send(part(X | {"data": [1, 0]}), OCTETS, path=INFER), 200),
    wrong("B07 cut JSON", send(GOOD[:-1], "Content-Type: application/json", path=INFER)),
    wrong("B07 declared", infer(GOOD + DATA, b"")),
    size("B08", -16),
    size("B09", 2**63),
    size("B10", 2**64 - 16),
    size("B11", 7),
    size("B12", 16),
    size("B13", "8"),
    size("B14", True),
    size("B14 float", 8.0),
    wrong("B15", infer(GOOD, DATA + bytes(8))),
    wrong("B16", infer(part(sized(X | {"data": [1, 0]}, 8)))),
    Row("B17", infer(GOOD, struct.pack("<2f", float("nan"), float("inf"))), 200),
    # docs/api.md: negative positions are legal
    Row("B18", infer(part(sized(X, 8), sized(PLACE, 8)), DATA + struct.pack("<q", -1)), 200),
    wrong("B19", infer(NAMED, length=NAMED.index("\u00e9".encode()) + 1)),
    Row("B20", infer(GOOD, DATA, None, f"{LENGTH}: {len(GOOD)}"), 400, closes=True),
    Row("B20 differ", infer(GOOD, DATA, None, f"{LENGTH}: 5"), 400, closes=True),
    Row("B20 JSON", post_json({}, f"{LENGTH}: 2", f"{LENGTH}: 3", path=INFER), 400, closes=True),
    Row("B20 good", infer(GOOD), 200),
]
