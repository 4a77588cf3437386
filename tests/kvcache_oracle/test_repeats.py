"""Answers that get lost: what is sent again is done once."""

import threading

import pytest
import torch

from tests.kvcache_oracle.messages import write_json
from tests.kvcache_oracle.remote import CONFIG, Remote, Unchanged, tokens


def test_a_step_in_another_form_is_a_repeat(remote: Remote) -> None:
    session, given = remote.filled(), tokens(2, seed=3)
    guard = {"layer": 0, "expected_length": 5, "expected_generation": 0}
    first = remote.call(session, "step", guard, given)
    assert first.status == 200, first
    again = remote.client.post(
        f"/v1/sessions/{session}/step",
        content=write_json(guard, given, as_base64=True),
        headers={"content-type": "application/json", "accept": "application/x-safetensors"},
    )
    assert again.status_code == 200, again.text
    packed = {name: each.flatten(0, 1) for name, each in given.items()}
    packed["cu_seqlens"] = torch.tensor([0, 2, 4], dtype=torch.int32)
    third = remote.call(session, "step", guard, packed)
    assert third.status == 200, third
    assert third.params["length"] == [7, 7]
    assert torch.equal(third.tensors["out"], first.tensors["out"].flatten(0, 1))
    other_q = given | {"q": tokens(2, seed=4)["q"]}
    assert remote.call(session, "step", guard, other_q).params["length"] == [7, 7]
    other_v = given | {"v": tokens(2, seed=4)["v"]}
    with Unchanged(remote, session):
        reply = remote.call(session, "step", guard, other_v)
        assert (reply.status, reply.code) == (409, "session_conflict")
        written_out = given | {"positions": torch.tensor([[5, 6], [5, 6]])}
        assert remote.call(session, "step", guard, written_out).status == 409


def test_a_repeat_at_max_tokens_is_done(remote: Remote) -> None:
    session = remote.filled(5, max_tokens=6)
    guard = {"layer": 0, "expected_length": 5}
    first = remote.call(session, "step", guard, tokens(1))
    again = remote.call(session, "step", guard, tokens(1))
    assert first.status == again.status == 200, again
    assert torch.equal(first.tensors["out"], again.tensors["out"])
    reply = remote.call(session, "step", {"layer": 0, "expected_length": 6}, tokens(1))
    assert (reply.status, reply.code) == (413, "session_too_long")


def test_a_repeat_of_a_part_of_the_rows(remote: Remote) -> None:
    session, given = remote.filled(), tokens(1, 1, names="kv")
    guard = {"layer": 0, "rows": [1], "expected_length": [5]}
    for _ in range(2):
        assert remote.call(session, "append", guard, given).params["length"] == [5, 6]
    both = tokens(1, names="kv")
    both["k"][1], both["v"][1] = given["k"][0], given["v"][0]
    reply = remote.call(session, "append", {"layer": 0, "expected_length": 5}, both)
    assert (reply.status, reply.params["length"]) == (409, [5, 6])


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("truncate", {"length": 3}),
        ("evict", {"start": 1, "stop": 3}),
        ("shift", {"start": 0, "stop": 4, "delta": 2}),
        ("reorder", {"rows": [1, 1, 0]}),
        ("select_tail", {"n": 3, "kept": [0, 2]}),
        ("attach", {"start": 0, "stop": 2}),
    ],
)
def test_an_op_id_is_done_once(remote: Remote, operation: str, params: dict[str, object]) -> None:
    session = remote.filled()
    if operation == "attach":
        params = params | {"source": session}
    guard = {"expected_length": 5, "expected_generation": 0, "op_id": "one"}
    first = remote.call(session, operation, params | guard)
    assert first.status == 200, first
    assert first.params["generation"] == 1
    with Unchanged(remote, session):
        again = remote.call(session, operation, params | guard)
        assert again.status == 200, again
        assert again.params["length"] == first.params["length"]
        assert again.params["generation"] == 1
        reply = remote.call(session, "truncate", {"length": 0, "op_id": "one"})
        assert reply.status == 422, reply
        reply = remote.call(session, operation, params | guard | {"op_id": "x" * 65})
        assert reply.status == 422, reply
    fork = remote.call(session, "fork").params["ids"][0]
    reply = remote.call(fork, "truncate", {"length": 0, "op_id": "one"})
    assert reply.params == {"length": [0] * len(reply.params["length"]), "generation": 1}


def test_a_failed_operation_leaves_no_op_id(remote: Remote) -> None:
    session = remote.filled()
    assert remote.call(session, "truncate", {"length": 9, "op_id": "one"}).status == 409
    assert remote.call(session, "truncate", {"length": 4, "op_id": "one"}).status == 200


def test_sixteen_op_ids_are_kept(remote: Remote) -> None:
    session = remote.filled()
    for i in range(17):
        params = {"start": 0, "stop": 1, "delta": 1, "op_id": str(i)}
        assert remote.call(session, "shift", params).params["generation"] == i + 1
    params = {"start": 0, "stop": 1, "delta": 1}
    assert remote.call(session, "shift", params | {"op_id": "1"}).params["generation"] == 2
    assert remote.call(session, "shift", params | {"op_id": "0"}).params["generation"] == 18


def test_the_second_of_two_writers_is_refused(remote: Remote) -> None:
    """One pauses; the other truncates, and appends other tokens up to the same length."""
    session = remote.filled()
    before = {"layer": 0, "expected_length": 5, "expected_generation": 0}
    assert remote.call(session, "truncate", {"drop": 1} | before_all(before)).status == 200
    for layer in range(2):
        guard = {"layer": layer, "expected_length": 4, "expected_generation": 1}
        assert remote.call(session, "append", guard, tokens(1, names="kv")).status == 200
    with Unchanged(remote, session):
        reply = remote.call(session, "step", before, tokens(1))
        assert (reply.status, reply.params["length"]) == (409, [5, 5])
        assert reply.params["generation"] == 1


def before_all(guard: dict[str, object]) -> dict[str, object]:
    return {name: each for name, each in guard.items() if name != "layer"}


def test_writers_at_once_append_in_some_order(remote: Remote) -> None:
    """Each of 8 threads makes 8 guarded steps, and goes on from what a refusal tells."""
    session = remote.create(layers=1, max_tokens=64)
    done, lock = [], threading.Lock()

    def write(seed: int) -> None:
        length = 0
        for i in range(8):
            given = tokens(1, 1, seed=100 * seed + i)
            while True:
                reply = remote.call(session, "step", {"expected_length": length}, given)
                length = reply.params["length"][0]
                if reply.status == 200:
                    break
                assert (reply.status, reply.code) == (409, "session_conflict")
            with lock:
                done.append((length, given["k"]))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(length for length, _ in done) == [*range(1, 65)]
    assert remote.document(session)["length"] == [64]


def test_an_idempotency_key_creates_once(remote: Remote) -> None:
    body = CONFIG | {"max_tokens": 8}
    first = remote.ask("POST", "/v1/sessions", body, idempotency_key="k1")
    again = remote.ask("POST", "/v1/sessions", body, idempotency_key="k1")
    assert first.status == again.status == 201
    session = first.params["id"]
    assert session == again.params["id"]
    remote.call(session, "append", {"layer": 0}, tokens(1, 1, names="kv"))
    third = remote.ask("POST", "/v1/sessions", body, idempotency_key="k1")
    assert third.params["lengths"] == [[1], [0]]
    reply = remote.ask("POST", "/v1/sessions", CONFIG, idempotency_key="k1")
    assert reply.status == 422, reply
    forks = [
        remote.ask("POST", f"/v1/sessions/{session}/fork", {"count": 2}, idempotency_key="k2")
        for _ in range(2)
    ]
    assert forks[0].params["ids"] == forks[1].params["ids"], forks
    assert len(remote.ask("GET", "/v1/sessions").params["sessions"]) == 3
    remote.delete(session)
    reply = remote.ask("POST", "/v1/sessions", body, idempotency_key="k1")
    assert (reply.status, reply.code) == (410, "session_gone")


def test_a_failed_create_leaves_no_key(remote: Remote) -> None:
    taken = remote.create(name="n")
    body = CONFIG | {"name": "n"}
    assert remote.ask("POST", "/v1/sessions", body, idempotency_key="k3").status == 409
    assert remote.delete(taken) == 204
    assert remote.ask("POST", "/v1/sessions", body, idempotency_key="k3").status == 201


def test_one_key_sent_at_once_creates_once(remote: Remote) -> None:
    replies = []

    def create() -> None:
        replies.append(remote.ask("POST", "/v1/sessions", CONFIG, idempotency_key="k4"))

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in replies} == {201}
    assert len({reply.params["id"] for reply in replies}) == 1
    assert len(remote.ask("GET", "/v1/sessions").params["sessions"]) == 1
