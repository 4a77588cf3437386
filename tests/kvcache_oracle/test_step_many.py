"""`POST /v1/step`: tokens of many sessions in one request, each with a status of its own."""

import torch

from tests.kvcache_oracle.remote import Remote, tokens


def packed(counts: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    given = {name: each[0] for name, each in tokens(sum(counts), 1, seed=seed).items()}
    ends = [sum(counts[:i]) for i in range(len(counts) + 1)]
    return given | {"cu_seqlens": torch.tensor(ends, dtype=torch.int32)}


def test_many_sessions_step_as_each_alone(remote: Remote) -> None:
    """One has two rows, one another length; twins step alone and get the same bits."""
    sessions = [remote.filled(5), remote.filled(7, batch=1), remote.filled(2, batch=1)]
    twins = [remote.call(each, "fork").params["ids"][0] for each in sessions]
    given = packed([1, 1, 2, 1])
    body = {"sessions": sessions, "layer": 0, "expected_lengths": [5, 7, None]}
    reply = remote.ask("POST", "/v1/step", body, given)
    assert reply.status == 200, reply
    results = reply.params["results"]
    assert [each["session"] for each in results] == sessions
    assert [each["status"] for each in results] == [200, 200, 200]
    assert [each["length"] for each in results] == [[6, 6], [9], [3]]
    start = 0
    for twin, rows, n in zip(twins, (2, 1, 1), (1, 2, 1), strict=True):
        stop = start + rows * n
        own = {name: given[name][start:stop].unflatten(0, (rows, n)) for name in "qkv"}
        alone = remote.call(twin, "step", {"layer": 0}, own)
        assert torch.equal(alone.tensors["out"].flatten(0, 1), reply.tensors["out"][start:stop])
        start = stop
    again = remote.ask("POST", "/v1/step", body | {"expected_lengths": [5, 7, 2]}, given)
    assert [each["status"] for each in again.params["results"]] == [200, 200, 200], again
    assert torch.equal(again.tensors["out"], reply.tensors["out"])


def test_a_bad_session_fails_alone(remote: Remote, other: Remote) -> None:
    good = remote.filled(5, batch=1)
    stale, gone = remote.filled(5, batch=1), remote.filled(5, batch=1)
    frozen = remote.filled(5, batch=1)
    remote.ask("PATCH", f"/v1/sessions/{frozen}", {"frozen": True})
    remote.delete(gone)
    full = remote.filled(5, batch=1, max_tokens=5)
    wide = remote.filled(5, batch=1, heads=2)
    sessions = [good, stale, gone, frozen, full, wide, other.filled(5, batch=1), "nobody"]
    reply = remote.ask(
        "POST",
        "/v1/step",
        {
            "sessions": sessions,
            "layer": 0,
            "expected_lengths": [5, 4, None, 5, 5, None, None, None],
            "expected_generations": [0] * 8,
            "return_lse": True,
        },
        packed([1] * 8),
    )
    assert reply.status == 200, reply
    results = reply.params["results"]
    assert [(each["status"], each.get("code")) for each in results] == [
        (200, None),
        (409, "session_conflict"),
        (410, "session_gone"),
        (423, "frozen"),
        (413, "session_too_long"),
        (422, results[5].get("code")),
        (404, "no_session"),
        (404, "no_session"),
    ]
    assert results[2]["reason"] == "deleted"
    assert results[1]["length"] == [5]
    assert [each["session"] for each in results] == sessions
    assert reply.tensors["out"][0].abs().sum() > 0
    assert not reply.tensors["out"][1:].any()
    assert torch.isneginf(reply.tensors["lse"][1:]).all()
    assert remote.document(good)["lengths"] == [[6], [5]]
    for each in (stale, frozen, full, wide):
        assert remote.document(each)["length"] == [5]


def test_what_cannot_be_read_fails_as_a_whole(remote: Remote) -> None:
    session = remote.filled(5, batch=1)
    for body, given in (
        ({"sessions": [session, session], "layer": 0}, packed([1, 1])),
        ({"sessions": [session], "layer": 0}, packed([1, 1])),
        ({"sessions": [session], "layer": 0, "layers": [0]}, packed([1])),
        ({"sessions": [session], "layer": 0, "expected_lengths": [5, 5]}, packed([1])),
        ({"sessions": "x", "layer": 0}, packed([1])),
        ({"layer": 0}, packed([1])),
        ({"sessions": [session], "layer": 0, "another": 1}, packed([1])),
    ):
        reply = remote.ask("POST", "/v1/step", body, given)
        assert reply.status == 422, (body, reply)
    assert remote.document(session)["length"] == [5]


def test_a_layer_for_each_session(remote: Remote) -> None:
    sessions = [remote.filled(5, batch=1) for _ in range(3)]
    body = {"sessions": sessions, "layers": [0, 1, 0]}
    reply = remote.ask("POST", "/v1/step", body, packed([1, 1, 1]))
    assert [each["length"] for each in reply.params["results"]] == [[6]] * 3, reply
    documents = [remote.document(each)["lengths"] for each in sessions]
    assert documents == [[[6], [5]], [[5], [6]], [[6], [5]]]
