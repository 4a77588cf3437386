"""Section J: JSON that is malformed, deeply nested, long, or of the wrong type."""

import json

from tests.attacks.requests import (
    INFER,
    MAX_JSON_BYTES,
    ROTATE,
    SAFETENSORS,
    Row,
    entry,
    post,
    post_json,
    safetensors,
    send,
    tensor,
)


def broken(id_: str, text: bytes) -> Row:
    """Return a row whose body is not valid JSON, or is nested too deep."""
    return Row(id_, post(text), 400, "bad_message")


def wrong(id_: str, value: object, code: str = "shape") -> Row:
    """Return a row whose body is valid JSON, but not a valid call."""
    return Row(id_, post_json(value), 422, code)


def deep(depth: int) -> bytes:
    """Return lists, one within the other."""
    return b"[" * depth + b"]" * depth


def wide(text: bytes, piece: bytes, end: bytes) -> bytes:
    """Return a text just below the limit of a JSON body."""
    count = (MAX_JSON_BYTES - len(text) - len(end)) // len(piece)
    return text + piece * count + end


ROWS = [
    broken("J01", b""),
    broken("J01 blank", b" \r\n"),
    wrong("J02", None),
    wrong("J03", []),
    wrong("J03 of objects", [{}]),
    wrong("J04", "q"),
    wrong("J04 number", 1.5),
    *(
        Row(f"{id_} infer", post_json(value, path=INFER), 400)
        for id_, value in (("J02", None), ("J03", []), ("J04", "q"))
    ),
    broken("J05", ROTATE[:20]),
    broken("J06", ROTATE[:-1] + b",}"),
    broken("J07", ROTATE + b"garbage"),
    broken("J07 second", ROTATE + ROTATE),
    broken("J08", b"\xef\xbb\xbf" + ROTATE),
    broken("J08 UTF-16", ROTATE.decode().encode("utf-16")),
    broken("J09", b'{"q\xff": 1}'),
    broken("J09 value", b'{"rope": {"preset": "\xc0\xaf"}}'),
    broken("J10", b'{"\\ud800": 1}'),
    broken("J10 value", b'{"rope": {"preset": "\\ud800"}}'),
    broken("J11", b'{"q": ' + deep(1000) + b"}"),
    broken("J11 data", b'{"q": {"shape": [], "dtype": "float32", "data": ' + deep(1000) + b"}}"),
    broken("J11 second", b'{"q": [1, ' + deep(1000) + b"]}"),
    broken("J11 params", b'{"rope": {"theta": ' + deep(1000) + b"}}"),
    broken("J11 unknown", b'{"q": [[[1, 0]]], "a": {"b": ' + deep(1000) + b"}}"),
    broken("J11 no object", deep(1000)),
    broken("J11 objects", b'{"a":' * 1000 + b"1" + b"}" * 1000),
    Row("J11 infer", post(b'{"inputs": ' + deep(1000) + b"}", path=INFER), 400),
    broken("J12", b'{"q": ' + deep(100_000) + b"}"),
    Row("J13", lambda: post(b"[" * (10**6)), 400, "bad_message"),
    Row("J13 infer", lambda: post(b"[" * (10**6), path=INFER), 400),
    broken("J14", b'{"q": [[[1, 0]]], "rope": {"theta": ' + b"9" * 5000 + b"}}"),
    broken("J15", b'{"q": [[[NaN, 0]]]}'),
    broken("J16", b'{"q": [[[-Infinity, 0]]]}'),
    broken("J17", b'{"q": [[[1e999, 0]]]}'),
    wrong("J18", {"q": [[[1e39, 0]]]}),
    Row(
        "J18 infer",
        post_json(
            {
                "inputs": [
                    {"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 2], "data": [1e39, 0]}
                ]
            },
            path=INFER,
        ),
        400,
    ),
    Row(
        "J19",
        lambda: post_json({"q": [[[1, 0]]]} | {f"{n:x}": n for n in range(100_000)}),
        413,  # over the limit of a body, which is small here
        "too_large",
        closes=True,
    ),
    Row(
        "J19 in one body",
        lambda: post_json({"q": [[[1, 0]]]} | {f"a{n}": n for n in range(40_000)}),
        422,
        "unknown",
    ),
    wrong("J19 few", {"q": [[[1, 0]]]} | {f"a{n}": n for n in range(1000)}, "unknown"),
    Row(
        "J20",
        lambda: post_json({"q": [[[1, 0]]], "a": "b" * (MAX_JSON_BYTES - 50)}),
        422,
        "unknown",
    ),
    Row(
        "J20 safetensors",
        lambda: send(
            safetensors(
                {
                    "__metadata__": {"params": json.dumps({"a": "b" * 2**19})},
                    "q": entry([1, 1, 1, 2], 0, 8),
                },
                bytes(8),
            ),
            SAFETENSORS,
        ),
        422,
        "unknown",
    ),
    Row(
        "J20 known",
        lambda: post_json({"q": [[[1, 0]]], "rope": "b" * (MAX_JSON_BYTES - 50)}),
        422,
        "config",
    ),
    wrong("J20 name", {"q": [[[1, 0]]], "a" * 2**14: 1}, "unknown"),
    wrong("J20 quotes", {"q": [[[1, 0]]], '"\\' * 2**14: 1}, "unknown"),
    wrong("J20 preset", {"q": [[[1, 0]]], "rope": "\U0001f600" * 2**10}, "config"),
    Row("J21", lambda: post(wide(b'{"q": [', b"{},", b"{}]}")), 422, "shape"),
    Row("J21 lists", lambda: post(wide(b'{"q": [', b"[],", b"[]]}")), 422, "config"),
    Row("J21 texts", lambda: post(wide(b'{"q": [', b'"",', b'""]}')), 422, "shape"),
    Row("J21 objects", lambda: post(wide(b'{"rope": [', b'{"a":0},', b"{}]}")), 422, "shape"),
    Row("J21 nested", lambda: post(wide(b'{"q": [', b"[[[[[[[]]]]]]],", b"[]]}")), 422, "shape"),
    Row("J22", post(b'{"q": [[[9, 9]]], ' + ROTATE[1:]), 200),
    Row("J22 tensors", post(b'{"positions": [[7]], ' + ROTATE[1:]), 200),
    wrong("J23", {"q": [[[True, 0.5]]]}),
    wrong("J24", {"q": [[["1", 0.5]]]}),
    wrong("J25", {"q": [[[None, 0.5]]]}),
    wrong("J26", {"q": [[[1, 0]], [[1]]]}),
    wrong("J26 depth", {"q": [[[1, 0]], [1, 0]]}),
    wrong("J26 axes", {"q": [[[[[[[[[1]]]]]]]]]}),
    wrong("J26 many", {"q": tensor([1, 1, 1, 2]) | {"": 1}}),
]
