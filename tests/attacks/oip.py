"""O: inference of the Open Inference Protocol, all in JSON."""

from typing import Any

from tests.attacks.requests import INFER, MAX_JSON_BYTES, Row, post, post_json

ATTENTION = "/v2/models/rope_attention/infer"
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 1, 1, 2], "data": [1, 0]}
POSITIONS: dict[str, Any] = {"name": "positions", "datatype": "INT64", "shape": [1, 1]}


def wrong(id_: str, body: object, path: str = INFER) -> Row:
    """Return a row of a request that cannot be."""
    return Row(id_, post_json(body, path=path), 400)


def x(id_: str, **members: object) -> Row:
    """Return a row whose only input has other members."""
    return wrong(id_, {"inputs": [X | members]})


def shared(id_: str, **parameters: object) -> Row:
    """Return a row that names shared memory, which is off."""
    region = {"shared_memory_region": "attacked", "shared_memory_byte_size": 8, **parameters}
    return Row(id_, post_json({"inputs": [X | {"parameters": region}]}, path=INFER), 400)


def nest(depth: int) -> bytes:
    """Return a request whose data are nested."""
    start = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,1,2],"data":'
    return post(start + b"[" * depth + b"1,0" + b"]" * depth + b"}]}", path=INFER)


ROWS = [
    Row("O01", post_json({"inputs": [X]}, path="/v2/models/%f0%9f%98%80%0a/infer"), 404),
    Row(
        "O01 raw",
        post_json({"inputs": [X]}, path="/v2/models/\xf0\x9f/infer"),
        400,
        "bad_request",
        True,
    ),
    wrong("O02", {}),
    wrong("O03", {"inputs": []}),
    wrong("O04", {"inputs": {"x": X}}),
    wrong("O04 item", {"inputs": ["x"]}),
    wrong("O05", {"inputs": [X, X]}),
    x("O06", name='y\n{"level": "error", "message": "forged"}\r\n\u202e\x00'),
    x("O06 number", name=1),
    x("O07", datatype="INT64"),
    x("O08", datatype="BYTES", data=["a", "b"]),
    x("O09", datatype="FP" + "9" * 5000),
    x("O09 number", datatype=32),
    wrong("O10", {"inputs": [X, POSITIONS | {"data": [2**63]}]}),
    wrong("O11", {"inputs": [X, POSITIONS | {"data": [1.5]}]}),
    wrong("O11 true", {"inputs": [X, POSITIONS | {"data": [True]}]}),
    x("O12", shape=[2**62 + 8, 4], data=[0.5] * 32),
    x("O13", shape=[2, -5], data=[0.5] * 10),
    x("O13 text", shape="1"),
    x("O13 negative", shape=[-1, -1, -1, -2]),
    Row("O14", nest(120), 400),
    Row("O15", nest(100_000), 400),
    wrong("O16", {"inputs": [X], "outputs": [{"name": "z" * 5000}]}),
    wrong("O17", {"inputs": [X], "outputs": [{"name": "rotated"}] * 2}),
    Row(
        "O18",
        lambda: post_json({"inputs": [X], "outputs": [{"name": "a"}] * 50_000}, path=INFER),
        400,
    ),
    Row("O19", lambda: post_json({"inputs": [{"name": "a"}] * 50_000}, path=INFER), 400),
    Row(
        "O20",
        lambda: post_json({"id": "a" * (MAX_JSON_BYTES - 200), "inputs": [X]}, path=INFER),
        400,
    ),
    wrong("O20 4097 characters", {"id": "a" * 4097, "inputs": [X]}),
    Row("O20 4096 characters", post_json({"id": "a" * 4096, "inputs": [X]}, path=INFER), 200),
    Row("O20 control", post_json({"id": 'a\n\x00"\u202e', "inputs": [X]}, path=INFER), 200),
    wrong("O21", {"id": 7, "inputs": [X]}),
    shared("O22"),
    shared("O23", shared_memory_offset=2**64 - 32),
    wrong("O24", {"inputs": [X], "parameters": [1]}),
    wrong("O25", {"inputs": [X], "parameters": {"theta": "nan"}}),
    wrong("O25 object", {"inputs": [X], "parameters": {"rope": '{"theta": NaN}'}}),
    wrong("O25 timeout", {"inputs": [X], "parameters": {"timeout": 2**64}}),
    wrong("O25 name", {"inputs": [X], "parameters": {"__class__": 1}}),
    wrong("O26", {"inputs": [X | {"name": "q"}]}, ATTENTION),
]
