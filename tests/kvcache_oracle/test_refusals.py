"""Each refusal of a session has its code and its members, and the session is unchanged."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.kvcache_oracle.remote import HEAD_DIM, KV_HEADS, Remote, Unchanged, tokens


@dataclass(frozen=True)
class Row:
    """A request that is refused; without a code any of its status."""

    name: str
    state: str
    """`level`: 2 rows of 5 tokens in 2 layers, of at most 24; `ahead`: layer 0 has one more;
    `frozen`; `rolled`: a window of 4, and 40 tokens."""
    operation: str
    params: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    status: int
    code: str
    members: dict[str, Any] = field(default_factory=dict)


KV, QKV, Q = tokens(1, names="kv"), tokens(1), tokens(1, names="q")
LEVEL = {"length": [5, 5], "generation": 0}
ROWS = [
    Row("length", "level", "append", {"layer": 0, "expected_length": 4}, KV,
        409, "session_conflict", LEVEL | {"layer": 0, "expected": [4, 4]}),
    Row("length of a row", "level", "append", {"layer": 0, "expected_length": [5, 4]}, KV,
        409, "session_conflict", LEVEL),
    Row("generation", "level", "append",
        {"layer": 0, "expected_length": 5, "expected_generation": 1}, KV,
        409, "session_conflict", LEVEL),
    Row("step", "level", "step", {"layer": 1, "expected_length": 6}, QKV,
        409, "session_conflict", LEVEL | {"layer": 1}),
    Row("layer ahead", "ahead", "step", {"layer": 0, "expected_length": 5}, QKV,
        409, "session_conflict", {"length": [6, 6]}),
    Row("truncate: guard", "level", "truncate", {"length": 1, "expected_length": 6}, {},
        409, "session_conflict", LEVEL),
    Row("truncate: generation", "level", "truncate", {"drop": 1, "expected_generation": 3}, {},
        409, "session_conflict", LEVEL),
    Row("truncate beyond", "level", "truncate", {"length": 6}, {}, 409, "session_conflict", LEVEL),
    Row("truncate one row beyond", "level", "truncate", {"length": [2, 6]}, {},
        409, "session_conflict", LEVEL),
    Row("drop beyond", "level", "truncate", {"drop": 6}, {}, 409, "session_conflict", LEVEL),
    Row("truncate beyond the shortest", "ahead", "truncate", {"length": 6}, {},
        409, "session_conflict", LEVEL),
    Row("tail beyond", "level", "select_tail", {"n": 6, "kept": [0]}, {},
        409, "session_conflict", LEVEL),
    Row("fork beyond", "level", "fork", {"length": 6}, {}, 409, "session_conflict", LEVEL),
    *(
        Row(f"{operation}: guard", "level", operation, params | {"expected_length": 4}, {},
            409, "session_conflict", LEVEL)
        for operation, params in {
            "select_tail": {"n": 2, "kept": [0]},
            "evict": {"start": 0, "stop": 1},
            "shift": {"start": 0, "stop": 1, "delta": 1},
            "reorder": {"rows": [1, 0]},
        }.items()
    ),
    Row("uneven evict", "ahead", "evict", {"start": 0, "stop": 1}, {}, 409, "layers_differ",
        {"lengths": [[6, 6], [5, 5]]}),
    Row("uneven shift", "ahead", "shift", {"start": 0, "stop": 1, "delta": 1}, {},
        409, "layers_differ"),
    Row("uneven reorder", "ahead", "reorder", {"rows": [1, 0]}, {}, 409, "layers_differ"),
    Row("uneven select_tail", "ahead", "select_tail", {"n": 1, "kept": [0]}, {},
        409, "layers_differ"),
    Row("strict fork", "ahead", "fork", {"strict": True}, {}, 409, "layers_differ"),
    Row("rolled", "rolled", "truncate", {"length": 6}, {}, 409, "rolled_past"),
    Row("rolled fork", "rolled", "fork", {"length": 6}, {}, 409, "rolled_past"),
    Row("rolled evict", "rolled", "evict", {"start": 8, "stop": 39, "close": True}, {},
        409, "rolled_past"),
    Row("too long", "level", "append", {"layer": 0}, tokens(20, names="kv"),
        413, "session_too_long"),
    Row("too long step", "level", "step", {"layer": 1}, tokens(20), 413, "session_too_long"),
    Row("guard before length", "level", "append", {"layer": 0, "expected_length": 4},
        tokens(20, names="kv"), 409, "session_conflict"),
    *(
        Row(f"frozen {operation}", "frozen", operation, params, tensors, 423, "frozen")
        for operation, params, tensors in (
            ("append", {"layer": 0}, KV),
            ("step", {"layer": 0}, QKV),
            ("truncate", {"length": 0}, {}),
            ("select_tail", {"n": 1, "kept": []}, {}),
            ("evict", {"start": 0, "stop": 1}, {}),
            ("shift", {"start": 0, "stop": 1, "delta": 1}, {}),
            ("reorder", {"rows": [0]}, {}),
            ("rebase", {"to": {"theta": 5.0}}, {}),
        )
    ),
    Row("frozen before shapes", "frozen", "step", {"layer": 7}, {}, 423, "frozen"),
    Row("frozen before the guard", "frozen", "truncate", {"length": 1, "expected_length": 9}, {},
        423, "frozen"),
    Row("heads", "level", "append", {"layer": 0},
        {"k": torch.zeros(2, 1, KV_HEADS + 1, HEAD_DIM), "v": KV["v"]}, 422, "shape"),
    Row("rows of the tensor", "level", "append", {"layer": 0}, tokens(1, 3, names="kv"),
        422, "shape"),
    Row("k and v differ", "level", "append", {"layer": 0},
        {"k": KV["k"], "v": tokens(2, names="v")["v"]}, 422, "shape"),
    Row("dtype", "level", "append", {"layer": 0},
        {name: each.half() for name, each in KV.items()}, 422, "shape"),
    Row("shapes before the guard", "level", "append", {"layer": 0, "expected_length": 4},
        tokens(1, 3, names="kv"), 422, "shape"),
    Row("no v", "level", "append", {"layer": 0}, {"k": KV["k"]}, 422, ""),
    Row("empty step", "level", "step", {"layer": 0}, tokens(0), 422, ""),
    Row("no layer", "level", "append", {}, KV, 422, ""),
    Row("layer beyond", "level", "append", {"layer": 2}, KV, 422, ""),
    Row("row beyond", "level", "append", {"layer": 0, "rows": [0, 2]}, KV, 422, ""),
    Row("row twice", "level", "append", {"layer": 0, "rows": [1, 1]}, KV, 422, ""),
    Row("row twice in attend", "level", "attend", {"layer": 0, "rows": [1, 1]}, Q, 422, ""),
    Row("more queries than tokens", "level", "attend", {"layer": 0}, tokens(6, names="q"),
        422, "shape"),
    Row("index without positions", "level", "attend", {"layer": 0},
        Q | {"q_index": torch.zeros(2, 1, dtype=torch.int64)}, 422, ""),
    Row("mask beyond", "level", "attend", {"layer": 0},
        Q | {"tail_mask": torch.ones(1, 6, dtype=torch.bool)}, 422, "shape"),
    Row("another position", "ahead", "append", {"layer": 1},
        KV | {"positions": torch.full((2, 1), 9)}, 422, "shape"),
    Row("places", "level", "evict", {"start": 0, "stop": 6}, {}, 422, ""),
    Row("negative place", "level", "evict", {"start": -1, "stop": 2}, {}, 422, ""),
    Row("start behind stop", "level", "shift", {"start": 3, "stop": 2, "delta": 1}, {}, 422, ""),
    Row("kept", "level", "select_tail", {"n": 2, "kept": [1, 0]}, {}, 422, ""),
    Row("kept beyond", "level", "select_tail", {"n": 2, "kept": [2]}, {}, 422, ""),
    Row("reorder beyond", "level", "reorder", {"rows": [2]}, {}, 422, ""),
    Row("reorder to too many rows", "level", "reorder", {"rows": [0] * 1025}, {}, 422, "config"),
    Row("fork too often", "level", "fork", {"count": 65}, {}, 422, ""),
    Row("one name for two forks", "level", "fork", {"count": 2, "name": "n"}, {}, 422, ""),
    *(
        Row(f"fixed: {name}", "level", "attend", {"layer": 0, name: value}, Q, 422, "unknown")
        for name, value in {
            "softcap": 3.0,
            "window": 3,
            "causal": False,
            "scale": 1.0,
            "rope": {"theta": 5},
            "chunk": 5,
        }.items()
    ),
    Row("unknown tensor", "level", "append", {"layer": 0}, KV | {"mask": torch.ones(1)},
        422, "unknown"),
    Row("unknown parameter", "level", "truncate", {"length": 5, "row": 1}, {}, 422, "unknown"),
    Row("no such source", "level", "attach", {"source": "r1.0.nope", "start": 0, "stop": 0}, {},
        404, "no_session"),
]  # fmt: skip


def make(remote: Remote, state: str) -> str:
    if state == "rolled":
        attention = {"window": 4}
        session = remote.filled(20, max_tokens=64, attention=attention, rollback=2)
        for start in range(20, 40, 4):
            for layer in range(2):
                given = tokens(4, seed=start, names="kv")
                assert remote.call(session, "append", {"layer": layer}, given).status == 200
        return session
    session = remote.filled()
    if state == "ahead":
        assert remote.call(session, "append", {"layer": 0}, tokens(1, names="kv")).status == 200
    if state == "frozen":
        reply = remote.ask("PATCH", f"/v1/sessions/{session}", {"frozen": True})
        assert reply.params["frozen"], reply
    return session


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_refusals_leave_a_session_unchanged(remote: Remote, row: Row) -> None:
    session = make(remote, row.state)
    with Unchanged(remote, session):
        reply = remote.call(session, row.operation, row.params, row.tensors)
        assert (reply.status, reply.code or row.code) == (row.status, row.code or reply.code), reply
        assert reply.headers["content-type"] == "application/problem+json"
        assert "members" not in reply.params
        for name, value in row.members.items():
            assert reply.params.get(name) == value, (name, reply.params)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{", {"content-type": "application/json"}, 400, "bad_message"),
        (b"[]", {"content-type": "application/json"}, 422, ""),
        (b"x" * 20, {"content-type": "application/x-safetensors"}, 400, "bad_message"),
        (
            b"{}",
            {"content-type": "application/json", "x-session-id": "r1.0.a.b.c"},
            400,
            "bad_header",
        ),
        (b"{", {"content-type": "text/plain", "x-session-id": "another"}, 400, "bad_header"),
    ],
)
def test_messages_that_cannot_be_read(
    remote: Remote, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    session = remote.filled()
    with Unchanged(remote, session):
        path = f"/v1/sessions/{session}/append"
        response = remote.client.post(path, content=content, headers=headers)
        assert response.status_code == status, response.text
        assert not code or response.json()["code"] == code
