"""What create takes, and what documents and lists contain."""

from typing import Any

import pytest
import torch

from tests.kvcache_oracle.remote import CONFIG, HEADS, Remote, Unchanged, tokens

GROUP = {"layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8}


def test_a_document_has_its_members(remote: Remote) -> None:
    reply = remote.ask(
        "POST",
        "/v1/sessions",
        {
            "groups": [GROUP | {"layers": 2, "rope": {"theta": 500}}, GROUP | {"rope": None}],
            "dtype": "bfloat16",
            "batch": 2,
            "max_tokens": 10,
            "name": "n",
            "labels": ["x", "y"],
            "ttl_s": 60,
        },
    )
    assert reply.status == 201, reply
    document = reply.params
    expected: dict[str, Any] = {
        "length": [0, 0],
        "lengths": [[0, 0]] * 3,
        "batch": 2,
        "frozen": False,
        "pinned": False,
        "name": "n",
        "labels": ["x", "y"],
        "segments": [0, 0],
    }
    for name, value in expected.items():
        if name == "segments":  # an empty row may have one
            assert len(document[name]) == 2
            continue
        assert document[name] == value, (name, document)
    assert 58 <= document["expires_in_s"] <= 60
    assert 0 <= document["age_s"] <= 30
    assert {*document["bytes"]} == {"own", "shared", "reserved"}
    page = 4 * 2 * 8 * 2
    assert document["reserved_bytes"] == 2 * 3 * 3 * page
    configuration = document["configuration"]
    assert [group["layers"] for group in configuration["groups"]] == [[0, 1], [2]]
    assert configuration["groups"][1]["rope"] is None
    assert configuration["groups"][0]["value_dim"] == 8
    assert configuration["groups"][0]["rollback"] == 64
    assert configuration["groups"][0]["attention"]["causal"] is True
    assert configuration["dtype"] == "bfloat16"
    assert configuration["kv_dtype"] == "same"
    assert document["configuration_digest"]
    inspected = remote.ask("GET", f"/v1/sessions/{document['id']}").params
    for name in expected | {"configuration": 0, "configuration_digest": 0, "reserved_bytes": 0}:
        assert inspected[name] == document[name]
    (listed,) = remote.ask("GET", "/v1/sessions").params["sessions"]
    assert {*document} - {*listed} == {"configuration", "lengths"}


def test_one_configuration_has_one_digest(remote: Remote) -> None:
    def digest(**members: Any) -> str:
        reply = remote.ask("POST", "/v1/sessions", members)
        assert reply.status == 201, reply
        remote.delete(reply.params["id"])
        return reply.params["configuration_digest"]

    compact = {"heads": 2, "kv_heads": 1, "head_dim": 8, "dtype": "float32"}
    first = digest(**compact)
    assert digest(groups=[GROUP]) == first
    assert digest(groups=[GROUP | {"layers": [0], "value_dim": 8}]) == first
    assert digest(**compact, name="n", batch=3, max_tokens=9) == first
    assert digest(**compact | {"dtype": "float16"}) != first
    assert digest(groups=[GROUP | {"attention": {"window": 3}}]) != first
    assert digest(groups=[GROUP | {"rope": {"theta": 5}}]) != first


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"heads": 2},
        {"groups": []},
        {"groups": [GROUP | {"layers": [1]}]},
        {"groups": [GROUP | {"layers": [0, 0]}]},
        {"groups": [GROUP | {"layers": [0]}, GROUP | {"layers": [0]}]},
        {"groups": [GROUP | {"layers": 0}]},
        {"groups": [GROUP | {"kv_heads": 3}]},
        {"groups": [GROUP | {"heads": 0}]},
        {"groups": [GROUP | {"attention": {"window": 0}}]},
        {"groups": [GROUP | {"attention": {"window": 3, "window_ahead": 1, "causal": False}}]},
        {"groups": [GROUP | {"sinks": [0.0]}]},
        {"groups": [GROUP | {"rope": {"rope_type": "dynamic", "factor": 2.0,
                                      "max_position_embeddings": 64}}]},
        {"groups": [GROUP | {"rope": {"thta": 5}}]},
        {"groups": [GROUP | {"another": 5}]},
        {"groups": [GROUP | {"rollback": -1}]},
        {"groups": [GROUP], "heads": 2},
        {"groups": [GROUP], "preset": "llama-3.1-8b"},
        {"groups": [GROUP], "dtype": "float8"},
        {"groups": [GROUP], "dtype": "float64"},
        {"groups": [GROUP], "kv_dtype": "int8"},
        {"groups": [GROUP], "batch": 0},
        {"groups": [GROUP], "batch": 1025},
        {"groups": [GROUP], "labels": [str(i) for i in range(17)]},
        {"groups": [GROUP], "labels": ["x" * 65]},
        {"groups": [GROUP], "labels": "x"},
        {"groups": [GROUP], "name": 5},
        {"groups": [GROUP], "another": 5},
        {"preset": "no-such-model"},
    ],
)  # fmt: skip
def test_configurations_that_are_refused(remote: Remote, members: dict[str, Any]) -> None:
    reply = remote.ask("POST", "/v1/sessions", members)
    assert reply.status == 422, reply
    assert reply.code in ("config", "unknown", "shape"), reply
    assert remote.ask("GET", "/v1/sessions").params["sessions"] == []


def test_a_preset_gives_all_layers(remote: Remote) -> None:
    reply = remote.ask("POST", "/v1/sessions", {"preset": "gemma-3-1b-it", "dtype": "bfloat16"})
    assert reply.status == 201, reply
    groups = reply.params["configuration"]["groups"]
    layers = sorted(layer for group in groups for layer in group["layers"])
    assert layers == [*range(26)]
    windows = {group["attention"].get("window") for group in groups}
    assert windows == {None, 512}


def test_sinks_join_the_softmax(remote: Remote) -> None:
    sinks = [0.5, 1.0, -1.0, 2.0]
    forms: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
        ({"sinks": sinks}, {}),
        ({"sinks": [sinks, sinks]}, {}),
        ({}, {"sinks.0": torch.tensor([sinks, sinks])}),
        ({}, {"sinks.0": torch.tensor(sinks)}),
    ]
    answers = []
    for members, tensors in forms:
        reply = remote.ask("POST", "/v1/sessions", CONFIG | members, tensors)
        assert reply.status == 201, reply
        session = reply.params["id"]
        given = tokens(3, 1) | {"q": torch.zeros(1, 3, HEADS, 16)}
        reply = remote.call(session, "step", {"layer": 1, "return_lse": True}, given)
        expected = torch.log(torch.arange(1.0, 4.0)[:, None] + torch.tensor(sinks).exp())
        torch.testing.assert_close(reply.tensors["lse"][0], expected)
        answers.append(reply.tensors["out"])
    assert all(torch.equal(answers[0], each) for each in answers)


def test_k_and_v_come_along_with_a_create(remote: Remote) -> None:
    given = tokens(3, 1, names="kv")
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"layer": 1, "max_tokens": 8}, given)
    assert reply.status == 201, reply
    assert reply.params["lengths"] == [[0], [3]]
    stacked = {name: each[None].expand(2, -1, -1, -1, -1) for name, each in given.items()}
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"layers": [0, 1]}, stacked)
    assert reply.params["lengths"] == [[3], [3]], reply
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"layer": 1, "max_tokens": 2}, given)
    assert (reply.status, reply.code) == (413, "session_too_long")
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"layer": 5}, given)
    assert reply.status == 422, reply
    assert len(remote.ask("GET", "/v1/sessions").params["sessions"]) == 2


def test_lists_are_cut_into_pages(remote: Remote) -> None:
    sessions = [remote.create(labels=["all", str(i % 2)]) for i in range(6)]
    path = "/v1/sessions?label=all&limit=2"
    reply = remote.ask("GET", path)
    seen = [each["id"] for each in reply.params["sessions"]]
    assert seen == sessions[:2]
    remote.delete(sessions[1])
    remote.delete(sessions[2])
    while reply.params["next_cursor"] is not None:
        reply = remote.ask("GET", f"{path}&cursor={reply.params['next_cursor']}")
        seen += [each["id"] for each in reply.params["sessions"]]
    assert seen == [*sessions[:2], *sessions[3:]]
    odd = remote.ask("GET", "/v1/sessions?label=all&label=1").params["sessions"]
    assert [each["id"] for each in odd] == [sessions[3], sessions[5]]
    assert remote.ask("GET", "/v1/sessions?label=none").params["sessions"] == []
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=x", "another=1"):
        assert remote.ask("GET", f"/v1/sessions?{query}").status in (400, 422), query


def test_patch_changes_what_it_names(remote: Remote) -> None:
    session = remote.filled(name="n")
    path = f"/v1/sessions/{session}"
    reply = remote.ask("PATCH", path, {"labels": ["x"], "ttl_s": 50, "name": "m"})
    assert reply.status == 200, reply
    assert (reply.params["name"], reply.params["labels"]) == ("m", ["x"])
    assert 48 <= reply.params["expires_in_s"] <= 50
    assert remote.create(name="n")
    with Unchanged(remote, session):
        reply = remote.ask("PATCH", path, {"name": "n", "frozen": True})
        assert (reply.status, reply.code) == (409, "name_taken")
        assert remote.ask("PATCH", path, {"generation": 5}).status == 422
        assert remote.ask("PATCH", path, {"frozen": 1}).status == 422
        assert remote.ask("PATCH", path, {}).status == 200
    assert remote.ask("PATCH", path, {"frozen": True}).params["frozen"] is True
    reply = remote.ask("PATCH", path, {"frozen": False})
    assert (reply.status, reply.code) == (423, "frozen")
    assert remote.ask("PATCH", path, {"frozen": True, "name": None}).params["name"] is None


def test_a_fork_of_a_snapshot_goes_on(remote: Remote) -> None:
    session = remote.filled(name="prompt")
    remote.ask("PATCH", f"/v1/sessions/{session}", {"frozen": True})
    reply = remote.ask("POST", "/v1/sessions", {"fork": "prompt", "name": "a", "labels": ["z"]})
    assert reply.status == 201, reply
    (fork,) = reply.params["ids"]
    assert reply.params["id"] == fork
    assert reply.headers["location"] == f"/v1/sessions/{fork}"
    document = remote.document(fork)
    assert (document["frozen"], document["generation"]) == (False, 0)
    assert (document["name"], document["labels"]) == ("a", ["z"])
    assert document["bytes"]["shared"] > 0
    with Unchanged(remote, session):
        assert remote.call(fork, "step", {"layer": 0}, tokens(1)).status == 200
        assert remote.call(fork, "attach", {"source": "prompt", "start": 0, "stop": 1}).status
    assert remote.delete(session) == 204
    assert remote.document(fork)["length"] == [5, 5]
    assert remote.look(fork)


def test_head_and_get_renew_nothing(remote: Remote) -> None:
    session = remote.create(ttl_s=3600)
    path = f"/v1/sessions/{session}"
    head = remote.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["x-session-expires-in"]) in (3599, 3600, 3598)
