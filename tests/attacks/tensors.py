"""Section T: shapes, dtypes and sizes of tensors, in JSON and in safetensors."""

import struct

from tests.attacks.requests import SAFETENSORS, Row, entry, post_json, safetensors, send, tensor

CODES = {400: "bad_message", 413: "too_large", 422: "shape"}


def shaped(
    id_: str, shape: object, data: object, dtype: object = "float32", status: int = 422
) -> Row:
    """Return a row of an invalid tensor."""
    return Row(id_, post_json({"q": tensor(shape, data, dtype)}), status, CODES[status])


def packed(id_: str, header: object, data: bytes = b"", status: int = 422, size=None) -> Row:
    """Return a row of an invalid safetensors body."""
    return Row(id_, send(safetensors(header, data, size), SAFETENSORS), status, CODES[status])


TWO = [0.5, 0.5]
SIZES: dict[str, tuple[list[int], int]] = {
    "T02": ([2**62 + 8, 4], 413),
    "T03": ([4, 2**60 + 2], 413),
    "T04": ([2**63], 413),
    "T05": ([2**64], 422),
    "T06": ([2**32, 2**32], 413),
    "T07": ([0, 2**62, 1, 2], 422),
    "T24": ([2**28], 422),
}
EMPTY = {"q": entry([1, 0, 1, 2], 0, 0)}

ROWS = [
    shaped("T01", [-1, 1, 1, 2], TWO),
    *(
        shaped(id_, shape, [] if id_ == "T07" else TWO, status=status)
        for id_, (shape, status) in SIZES.items()
    ),
    *(
        packed(f"{id_} safetensors", {"q": entry(shape, 0, 8)}, bytes(8), status)
        for id_, (shape, status) in SIZES.items()
    ),
    Row("T08", post_json({"q": tensor([1, 0, 1, 2])}), 200),
    Row("T08 safetensors", send(safetensors(EMPTY), SAFETENSORS), 200),
    Row("T09", post_json({"q": tensor([], [0.5])}), 422, "config"),
    shaped("T10", [1] * 70, [0.5]),
    shaped("T11", [1] * 10_000, [0.5]),
    shaped("T12", [1, 1, 2, 2], [0.5] * 3),
    shaped("T13", [1, 1, 2, 2], [0.5] * 5),
    packed("T12 safetensors", {"q": entry([1, 1, 1, 2], 0, 8)}, bytes(7), 400),
    packed("T13 safetensors", {"q": entry([1, 1, 1, 2], 0, 8)}, bytes(9), 400),
    shaped("T14", [1.0, 1, 1, 2], TWO),
    shaped("T15", [True, 1, 1, 2], TWO),
    packed("T15 safetensors", {"q": entry([True, 1, 1, 2], 0, 8)}, bytes(8)),
    shaped("T16", ["1", 1, 1, 2], TWO),
    shaped("T17", 2, TWO),
    shaped("T17 null", None, TWO),
    Row("T18", post_json({"q": tensor([1, 1, 1, 3])}), 422, "config"),
    Row("T19", post_json({"q": tensor([1, 1, 1, 1])}), 422, "config"),
    shaped("T20", [1, 1, 1, 2], TWO, "object"),
    shaped("T21", [1, 1, 1, 2], TWO, "__import__('os').system"),
    shaped("T22", [1, 1, 1, 2], TWO, ["float32"]),
    shaped("T23", [1, 1, 1, 2], TWO, "complex64"),
    shaped("T23 long", [1, 1, 1, 2], TWO, "\U0001f600" * 2**10),
    Row("T25", post_json({"positions": [0]}), 422, "shape"),
    Row("T26", post_json({"q": "/etc/passwd"}), 422, "unknown"),
    Row("T26 URL", post_json({"q": "http://127.0.0.1:1/a"}), 422, "unknown"),
    shaped("T26 data", [1, 1, 1, 2], "file:///etc/passwd"),
    packed("T13 header short", b"", size=0, status=400),
    Row("T13 header seven bytes", send(bytes(7), SAFETENSORS), 400, "bad_message"),
    *(
        packed(f"T13 header length {size}", {"q": entry([2], 0, 8)}, bytes(8), 400, size)
        for size in (10**6, 2**31, 2**63, 2**64 - 1, 1)
    ),
    packed("T13 offsets order", {"q": entry([2], 8, 16), "k": entry([2], 0, 4)}, bytes(16)),
    packed("T13 offsets overlap", {"q": entry([2], 0, 8), "k": entry([2], 4, 12)}, bytes(12), 400),
    packed("T13 offsets equal", {"q": entry([2], 0, 8), "k": entry([2], 0, 8)}, bytes(8), 400),
    packed("T13 offsets gap", {"q": entry([2], 0, 8), "k": entry([2], 9, 17)}, bytes(17), 400),
    packed("T13 offsets start", {"q": entry([2], 1, 9)}, bytes(9), 400),
    packed("T13 offsets backward", {"q": entry([2], 8, 0)}, bytes(8)),
    packed("T13 offsets negative", {"q": entry([2], -8, 0)}, bytes(8)),
    packed("T13 offsets wraps", {"q": entry([2], 2**64 - 8, 2**64)}, bytes(8), 400),
    packed("T13 offsets float", {"q": entry([2], 0.0, 8.0)}, bytes(8), 400),
    packed("T13 offsets booleans", {"q": entry([0], False, False)}, b"", 400),
    packed(
        "T13 offsets three",
        {"q": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}},
        b"",
        400,
    ),
    packed("T13 packed dtype", {"q": entry([1, 1, 1, 2], 0, 8, "F64")}, bytes(8)),
    packed("T13 packed unknown", {"q": entry([1, 1, 1, 2], 0, 8, "Q4" * 999)}, bytes(8)),
    packed("T13 packed boolean", {"q": entry([1, 1, 1, 8], 0, 8, "BOOL")}, bytes([2] * 8)),
    packed("T13 header of list", [], b"", 400),
    packed("T13 header of null", {"q": None}, b"", 400),
    packed("T13 header of metadata", {"__metadata__": []}, b"", 400),
    packed("T13 header of params", {"__metadata__": {"params": "[" * 2000}}, b"", 400),
    packed("T13 header of deep", b'{"q": ' + b"[" * 5000 + b"]" * 5000 + b"}", b"", 400),
    packed("T13 header of names", {f"t{n}": entry([0], 0, 0) for n in range(17)}, b"", 400),
    Row(
        "T13 packed twice",
        send(
            safetensors(
                b'{"q":{"dtype":"F32","shape":[1,1,1,2],"data_offsets":[0,8]},'
                b'"q":{"dtype":"F32","shape":[1,1,1,4],"data_offsets":[0,16]}}',
                bytes(8),
            ),
            SAFETENSORS,
        ),
        400,
        "bad_message",
    ),
    Row(
        "T13 packed NaN",
        send(
            safetensors(
                {"q": entry([1, 1, 1, 2], 0, 8)}, struct.pack("<2f", float("nan"), float("inf"))
            ),
            SAFETENSORS,
        ),
        200,
    ),
]
