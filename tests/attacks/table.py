"""All rows of requests. Rows of many clients and of slow clients are tests of their own."""

from tests.attacks import (
    attention,
    binary,
    encodings,
    framing,
    headers,
    json_bodies,
    limits,
    methods,
    oip,
    positions,
    tensors,
)
from tests.attacks.requests import Row

SECTIONS = (
    *(framing, limits, methods, encodings, json_bodies, tensors),
    *(positions, attention, oip, binary, headers),
)
ROWS: list[Row] = [row for section in SECTIONS for row in section.ROWS]

NUM_ROWS = {
    "F": 32,
    "L": 12,
    "M": 17,
    "E": 14,
    "J": 26,
    "T": 26,
    "P": 19,
    "A": 7,
    "C": 7,
    "O": 26,
    "B": 20,
    "H": 12,
}
"""Rows of each section of the table. Sections K (keys), X (many clients) and S (slow clients) are
in `tests/service/access`, `test_clients.py` and `test_slow_clients.py`."""
