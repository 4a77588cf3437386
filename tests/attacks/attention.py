"""Section A: attention whose tensors do not fit together, or that costs more than its size."""

import json
from typing import Any

from tests.attacks.requests import (
    OCTETS,
    SAFETENSORS,
    Row,
    entry,
    post_json,
    safetensors,
    send,
    tensor,
)


def attend(q: list[int], k: list[int], v: list[int] | None = None, **params: Any) -> bytes:
    """Return attention over tensors of shapes."""
    tensors = {"q": tensor(q), "k": tensor(k), "v": tensor(v or k)}
    return post_json({**tensors, **params}, path="/v1/attention")


def wrong(id_: str, request: bytes, code: str = "shape") -> Row:
    """Return a row of invalid attention."""
    return Row(id_, request, 422, code)


def long(**params: Any) -> bytes:
    """Return attention whose tensors are small, and whose scores are 20 billion."""
    num_bytes, metadata = NUM_TOKENS * 4, {"params": json.dumps(params)}
    entries = {
        name: entry([1, NUM_TOKENS, 1, 2], n * num_bytes, (n + 1) * num_bytes, "F16")
        for n, name in enumerate("qkv")
    }
    body = safetensors({"__metadata__": metadata, **entries}, bytes(3 * num_bytes))
    return send(body, SAFETENSORS, path="/v1/attention")


def long_infer() -> bytes:
    """Return the same attention of the Open Inference Protocol."""
    num_bytes = NUM_TOKENS * 4
    one = {"datatype": "FP16", "shape": [1, NUM_TOKENS, 1, 2]}
    inputs = [one | {"name": n, "parameters": {"binary_data_size": num_bytes}} for n in "qkv"]
    text = json.dumps({"inputs": inputs}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    path = "/v2/models/rope_attention/infer"
    return send(text + bytes(3 * num_bytes), OCTETS, length, path=path)


NUM_TOKENS = 200_000
Q = [1, 2, 1, 4]

ROWS = [
    wrong("A01", attend(Q, [1, 1, 1, 4], Q)),
    wrong("A02", attend(Q, [1, 2, 1, 2])),
    wrong("A03", attend([1, 2, 3, 4], [1, 2, 2, 4])),
    wrong("A04", attend(Q, [1, 0, 1, 4])),
    Row("A04 no queries", attend([1, 0, 1, 4], [1, 0, 1, 4]), 200),
    wrong("A04 packed", attend([2, 1, 4], [0, 1, 4], cu_seqlens_q=[0, 2], cu_seqlens_k=[0, 0])),
    # in a pack, a query that sees no key has the output 0, as with a mask
    Row(
        "A04 one of two",
        attend([2, 1, 4], [1, 1, 4], cu_seqlens_q=[0, 1, 2], cu_seqlens_k=[0, 1, 1]),
        200,
    ),
    wrong("A05", attend(Q, [1, 2, 0, 4])),
    wrong("A06", attend(Q, Q, causal="yes"), "config"),
    wrong("A06 window", attend(Q, Q, window=2**64), "config"),
    wrong("A06 scale", attend(Q, Q, scale="nan"), "config"),
    wrong("A06 softcap", attend(Q, Q, softcap=-1e308), "config"),
    wrong("A06 index", attend(Q, Q, q_offset=2**63), "config"),
    wrong("A06 batch", attend(Q, [2, 2, 1, 4])),
    Row("A07", long, 413, "too_large"),
    Row("A07 softcap", lambda: long(softcap=5.0), 413, "too_large"),
    Row("A07 infer", long_infer, 413),
    Row("A07 short", lambda: attend([1, 2**13, 1, 2], [1, 2**13, 1, 2]), 200),
]
