"""Given frequencies and given divisors of frequencies, in every form of a request."""

import httpx
import numpy as np
import pytest
import torch

from rope_client import Client
from rope_core import Attend, CosSin, RopeConfig, attend, cos_sin, rotate
from tests.service.oip.forms import every_form

OWN = [1.0, 0.3, -0.7, 0.0, 2.5, 1e-4, 0.11]
ROPES = [
    {"inv_freq": OWN, "layout": "interleaved", "attention_factor": 1.5},
    {"inv_freq": OWN, "arithmetic": "hf"},
    {"theta": 5e5, "freq_factors": [1, 1, 2.5, 8.0, 8.0, 1e30, 0.5, 3.0]},
    {"axes": "mrope", "mrope_section": [2, 2, 3], "inv_freq": OWN},
]
AT = torch.tensor([[0, 7, 4095, 3]])
Q = torch.randn(1, 4, 2, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: " ".join(rope))
def test_every_form_has_the_answer_of_the_library(server_url, channel, rope):
    config = RopeConfig.of(16, rounding="activation" if "arithmetic" in rope else "once", **rope)
    expected = rotate(Q, positions=AT, rope=config)
    forms = every_form(server_url, channel, "rope", {"q": Q, "positions": AT}, rope)
    for form, (tensors, params) in forms.items():
        assert torch.equal(tensors["q"], expected), form
        assert not params, form


def test_attention_and_tables(server_url, channel):
    rope = {"inv_freq": OWN, "attention_factor": 1.5}
    config = RopeConfig.of(16, **rope)
    expected = attend(Attend(Q, Q, Q, config, q_positions=AT, k_positions=AT)).out
    sent = {"q": Q, "k": Q, "v": Q, "positions": AT}
    for form, (tensors, _) in every_form(server_url, channel, "rope_attention", sent, rope).items():
        torch.testing.assert_close(tensors["out"], expected, msg=form)
    table = cos_sin(CosSin(AT, config))
    forms = every_form(server_url, channel, "rope_cos_sin", {"positions": AT}, rope)
    for form, (tensors, params) in forms.items():
        assert torch.equal(tensors["cos"], table.cos), form
        assert params["attention_scaling"] == 1.5


def test_the_client_takes_arrays_and_tensors(server_url):
    single = np.asarray(OWN, dtype=np.float32)
    expected = rotate(Q, positions=AT, rope={"inv_freq": single})
    with Client(server_url) as client:
        for form in (single, torch.from_numpy(single)):
            assert np.array_equal(
                client.rotate(Q, positions=AT, rope={"inv_freq": form}).q, expected
            )
        resolved = client.resolve({"inv_freq": single})
    assert np.array_equal(resolved.inv_freq, single.astype(np.float64))
    rope = resolved.facts["rope"]
    assert (rope["rope_type"], rope["head_dim"], rope["rotary_dim"]) == ("inv_freq", 14, 14)
    assert "theta" not in rope
    assert resolved.facts["provenance"]["inv_freq"] == "given"
    assert resolved.facts["provenance"]["rope_type"] == "derived"


@pytest.mark.parametrize(
    ("rope", "code", "words"),
    [
        ({"inv_freq": [1.0] * 9}, "config", "rope.inv_freq must be a list of at most 8 numbers"),
        ({"inv_freq": []}, "config", "rope.inv_freq must be a list of 8 numbers"),
        ({"inv_freq": ["x"]}, "config", "rope.inv_freq must be a list of finite numbers, got 'x'"),
        ({"inv_freq": "x"}, "config", "rope.inv_freq must be a list of numbers, got 'x'"),
        ({"inv_freq": [[1.0]]}, "config", "rope.inv_freq must be a list of finite numbers, got [1"),
        (
            {"inv_freq": [None]},
            "config",
            "rope.inv_freq must be a list of finite numbers, got None",
        ),
        ({"inv_freq": OWN, "theta": 5e5}, "config", "rope.theta must be absent"),
        ({"inv_freq": OWN, "freq_factors": OWN}, "unknown", "parameter rope.freq_factors"),
        ({"inv_freq": OWN, "rope_type": "yarn"}, "unknown", "parameter rope.inv_freq"),
        ({"rope_freqs": OWN}, "unknown", "did you mean rope.freq_factors?"),
        ({"inv_freq": OWN, "gain": 2}, "unknown", "did you mean rope.attention_factor?"),
        ({"freq_factors": [1, -1]}, "config", "rope.freq_factors must be of positive numbers"),
    ],
    ids=str,
)
def test_bad_lists_are_refused(server_url, rope, code, words):
    response = httpx.post(f"{server_url}/v1/rotate", json={"q": Q.tolist(), "rope": rope})
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert words in response.json()["detail"]


def test_a_list_of_another_kind_is_no_number(server_url):
    body = b'{"q": [[[1.0, 2.0]]], "rope": {"inv_freq": [NaN]}}'
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server_url}/v1/rotate", content=body, headers=headers)
    assert response.status_code in (400, 422)
