"""O: inference of the Open Inference Protocol, all in JSON."""

import math
from typing import Any

from tests.attacks.requests import INFER, MAX_JSON_BYTES, Row, post, post_json

COS_SIN = "/v2/models/rope_cos_sin/infer"
ATTENTION = "/v2/models/rope_attention/infer"
X: dict[str, Any] = {"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 2], "data": [1, 0]}
POSITIONS: dict[str, Any] = {"name": "positions", "datatype": "INT64", "shape": [1, 1]}

NAMES = {f"a{n}": n for n in range(40_000)}


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
    start = b'{"inputs":[{"name":"q","datatype":"FP32","shape":[1,1,1,2],"data":'
    return post(start + b"[" * depth + b"1,0" + b"]" * depth + b"}]}", path=INFER)


def inputs(**shapes: list[int]) -> dict[str, Any]:
    """Return a request whose inputs have these shapes."""
    names = {"positions": "INT64"}
    return {
        "inputs": [
            {"name": name, "shape": shape, "datatype": names.get(name, "FP32")}
            | {"data": [1] * math.prod(shape)}
            for name, shape in shapes.items()
        ]
    }


def table(id_: str, status: int, head_dim: int, num_positions: int = 2) -> Row:
    """Return a row that requests a table of cos and sin."""
    body = inputs(positions=[num_positions]) | {"parameters": {"head_dim": head_dim}}
    return Row(id_, post_json(body, path=COS_SIN), status)


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
    wrong("O04", {"inputs": {"q": X}}),
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
    wrong("O17", {"inputs": [X], "outputs": [{"name": "q"}] * 2}),
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
    wrong("O20 257 characters", {"id": "a" * 257, "inputs": [X]}),
    Row("O20 256 characters", post_json({"id": "a" * 256, "inputs": [X]}, path=INFER), 200),
    Row("O20 control", post_json({"id": 'a\n\x00"\u202e', "inputs": [X]}, path=INFER), 200),
    wrong("O21", {"id": 7, "inputs": [X]}),
    shared("O22"),
    shared("O23", shared_memory_offset=2**64 - 32),
    wrong("O24", {"inputs": [X], "parameters": [1]}),
    wrong("O25", {"inputs": [X], "parameters": {"theta": "nan"}}),
    wrong("O25 object", {"inputs": [X], "parameters": {"rope": '{"theta": NaN}'}}),
    wrong("O25 timeout", {"inputs": [X], "parameters": {"timeout": 2**64}}),
    wrong("O25 name", {"inputs": [X], "parameters": {"__class__": 1}}),
    wrong("A04 infer", inputs(q=[1, 2, 1, 4], k=[1, 0, 1, 4], v=[1, 0, 1, 4]), ATTENTION),
    table("C01 infer", 413, 2**31),
    table("C02 infer", 413, 2**62),
    table("C03 infer", 400, 3),
    table("C06 infer", 413, 65536, 100_000),
    # open-inference-protocol, 6: a tensor without elements is legal
    table("C07 infer", 200, 4, 0),
    Row("T08 infer", post_json(inputs(q=[1, 0, 1, 2]), path=INFER), 200),
    Row("J19 infer", lambda: post_json({"inputs": [X]} | NAMES, path=INFER), 200),
    wrong("J19 parameters", {"inputs": [X], "parameters": NAMES}),
    wrong("J20 parameters", {"inputs": [X], "parameters": {"a": "b" * 2**19}}),
    wrong("O26", {"inputs": [X]}, ATTENTION),
    wrong("O27", {"inputs": [X], "parameters": {"rope": {"theta": 1e4}}}),
    wrong("O27 deep", {"inputs": [X], "parameters": {"rope": [[[[1]]]]}}),
    wrong("O28", {"inputs": [X], "outputs": [{"name": "k"}]}),
    wrong("O28 no heads", {"inputs": [POSITIONS]}),
]
