"""All rows that are one request. Rows with several clients are separate tests."""

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
"""Number of rows in each section. Section K (keys) is in `tests/service/access`, X (many clients)
in `test_many_clients.py`, and S (slow clients) in `tests/service/test_connection_border.py`."""
