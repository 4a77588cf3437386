"""Section A: attention whose tensors do not fit together, or that costs more than its size."""

from typing import Any

from tests.attacks.requests import Row, post_json, tensor


def attend(q: list[int], k: list[int], v: list[int] | None = None, **params: Any) -> bytes:
    """Return attention over tensors of shapes."""
    tensors = {"q": tensor(q), "k": tensor(k), "v": tensor(v or k)}
    return post_json({**tensors, **params}, path="/v1/attention")


def wrong(id_: str, request: bytes, code: str = "shape") -> Row:
    """Return a row of invalid attention."""
    return Row(id_, request, 422, code)


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
    Row("A07", lambda: attend([1, 2**13, 1, 2], [1, 2**13, 1, 2]), 200),
]
