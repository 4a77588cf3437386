"""Answers tell the length that decided the frequencies, in every form of a request."""

import httpx
import pytest
import torch

from tests.service.oip.forms import every_form

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 64}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
Q = torch.randn(1, 4, 2, 16, generator=torch.Generator().manual_seed(2))
AT = torch.tensor([[0, 7, 5000, 3]])
PHI = {"preset": "phi-3.5-mini-instruct", "arithmetic": "float64"}
CASES = {
    "dynamic": (DYNAMIC, AT, 5001, "positions of the call: max 5000 + 1"),
    "dynamic, short": (DYNAMIC, AT % 5, 64, "max_position_embeddings"),
    "longrope": (LONGROPE, AT, 5001, "positions of the call: max 5000 + 1"),
    "longrope, counted": (LONGROPE, None, 4, "tokens of the call: 4, counted from 0"),
    "longrope, fixed": (LONGROPE | {"length": 99}, AT, 99, "rope.length"),
    "xpos": ({"rope_type": "xpos"}, AT, 5001, "positions of the call: max 5000 + 1"),
    "another variant": ({"rope_type": "linear", "factor": 2.0}, AT, None, None),
}


@pytest.mark.parametrize(("rope", "positions", "length", "source"), CASES.values(), ids=CASES)
def test_every_form_tells_the_length(server_url, channel, rope, positions, length, source):
    sent = {"q": Q} if positions is None else {"q": Q, "positions": positions}
    for form, (_, params) in every_form(server_url, channel, "rope", sent, rope).items():
        expected = {} if length is None else {"length": length, "length_source": source}
        assert params == expected, form


def test_attention_and_tables_tell_the_length(server_url, channel):
    sent = {"q": Q[:, :1], "k": Q, "v": Q, "q_positions": AT[:, 1:2], "k_positions": AT}
    forms = every_form(server_url, channel, "rope_attention", sent, LONGROPE)
    for form, (_, params) in forms.items():
        assert params["length_source"] == "positions of k: max 5000 + 1", form
        assert params["length"] == 5001, form
    rope = LONGROPE | {"head_dim": 16}
    forms = every_form(server_url, channel, "rope_cos_sin", {"positions": AT}, rope)
    for form, (_, params) in forms.items():
        assert params["length_source"] == "positions of the call: max 5000 + 1", form
        assert params["length"] == 5001, form


def post(url, path, **body):
    response = httpx.post(url + path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_shift_tells_both_lengths(server_url):
    k, at = Q[0].tolist(), AT[0].tolist()
    moved = post(server_url, "/v1/shift", k=k, positions=at, delta=3, rope=LONGROPE, to=DYNAMIC)
    assert (moved["length"], moved["length_source"]) == (
        5001,
        "positions of the call: max 5000 + 1",
    )
    assert moved["to_length"] == 5004
    assert moved["to_length_source"] == "positions of the shifted keys: max 5003 + 1"
    to = DYNAMIC | {"length": 100}
    moved = post(server_url, "/v1/shift", k=k, positions=at, delta=3, to=to)
    assert "length" not in moved
    assert (moved["to_length"], moved["to_length_source"]) == (100, "to.length")


@pytest.mark.parametrize(
    ("rope", "expected", "dependence"),
    [
        (PHI, (0, "no call"), (4096, "original_max_position_embeddings")),
        (
            PHI | {"length": 100_000},
            (100_000, "rope.length"),
            (4096, "original_max_position_embeddings"),
        ),
        (
            DYNAMIC | {"head_dim": 16},
            (64, "max_position_embeddings"),
            (64, "max_position_embeddings"),
        ),
        ({"rope_type": "xpos", "head_dim": 16}, (0, "no call"), (1, None)),
    ],
    ids=str,
)
def test_resolve_tells_from_which_length_on_frequencies_change(
    server_url, rope, expected, dependence
):
    resolved = post(server_url, "/v1/resolve", rope=rope)
    assert (resolved["length"], resolved["length_source"]) == expected
    told = resolved["length_dependence"]
    assert (told["above"], told["parameter"]) == dependence
    assert told["change"]
    if "preset" in rope:
        answer = post(server_url, "/v1/cos_sin", positions=[1, 2], rope=rope)
        taken = (
            (100_000, "rope.length")
            if "length" in rope
            else (3, "positions of the call: max 2 + 1")
        )
        assert (answer["length"], answer["length_source"]) == taken


def test_other_ropes_have_no_length(server_url):
    resolved = post(server_url, "/v1/resolve", rope="llama-3.1-8b")
    assert not [name for name in resolved if name.startswith("length") and name != "lengths"]
