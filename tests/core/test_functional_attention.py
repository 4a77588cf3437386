"""`attend` of tensors: positions of each side, the side that rotates, models, warnings."""

import warnings

import pytest
import torch

from rope_core import (
    Attend,
    AttentionConfig,
    ConfigError,
    RopeWarning,
    attend,
    hf,
    resolve,
    rotate,
)
from tests.core.oracle import randn
from tests.core.test_functional import NOPE, ROPE, K, Q


def test_attention_of_positions_and_lse():
    v = randn(2, 6, 2, 16)
    positions = torch.arange(6) + 3
    expected = attend(
        Attend(Q, K, v, ROPE, AttentionConfig(), positions, positions, return_lse=True)
    )
    out, lse = attend(Q, K, v, positions=positions, rope=ROPE, return_lse=True)
    assert torch.equal(out, expected.out)
    assert torch.equal(lse, expected.lse)
    apart = attend(Q, K, v, q_positions=positions, k_positions=[*positions], rope=ROPE)
    torch.testing.assert_close(apart, out, rtol=1e-6, atol=1e-6)
    with pytest.raises(ConfigError, match="positions must be None if q_positions"):
        attend(Q, K, v, positions=positions, k_positions=positions, rope=ROPE)


def test_attention_of_a_model_has_its_window():
    rope = resolve("gemma-3-1b-it", layer=0)
    q, k = randn(1, 520, 1, 256), randn(1, 520, 1, 256, seed=1)
    out = attend(q, k, k, rope=rope)
    assert rope.attention.window == 512
    assert torch.equal(out, attend(Attend(q, k, k, rope.rope, rope.attention)).out)
    assert not torch.equal(out, attend(q, k, k, rope=rope, attention=AttentionConfig()))


@pytest.mark.filterwarnings("ignore::rope_core.RopeWarning")
def test_attention_of_a_model_whose_layers_differ_needs_a_layer():
    x = randn(1, 2, 1, 128)
    with pytest.raises(ConfigError, match=r"rope must be resolve\(..., layer=...\)"):
        attend(x, x, x, rope="command-r7b-12-2024")


def test_no_rope_rotates_nothing_and_a_missing_one_is_an_error():
    out = attend(Q, K, K, rope=None)
    assert torch.equal(out, attend(Attend(Q, K, K, None)).out)
    with pytest.raises(ConfigError, match="rope must be"):
        attend(Q, K, K)


def test_queries_from_0_beside_more_keys_have_a_warning():
    with pytest.warns(RopeWarning, match="from position 0: .* q_positions, from 5 on") as seen:
        attend(Q[:, :1], K, K, rope=ROPE)
    assert seen[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        attend(Q[:, :1], K, K, q_positions=[5], rope=ROPE)
        attend(Q[:, :1], K, K, rope=None)


@pytest.mark.parametrize("rotate_side", ["q", "k", "none"])
def test_attention_that_rotates_one_side(rotate_side):
    q, (rotated_q, rotated_k) = Q[:, 3:], rotate(Q, K, rope=ROPE)
    expected = attend(q, K, K, rope=ROPE, q_positions=range(3, 6), k_positions=range(6))
    sides = {
        "q": (q, rotated_k, range(3, 6)),
        "k": (rotated_q[:, 3:], K, range(6)),
        "none": (rotated_q[:, 3:], rotated_k, None),
    }
    q, k, positions = sides[rotate_side]
    options = {"rope": ROPE, "rotate": rotate_side}
    with warnings.catch_warnings(action="error"):
        out = attend(q, k, K, positions=positions, **options)
        torch.testing.assert_close(out, expected)
        if rotate_side != "none":
            named = attend(q, k, K, **{f"{rotate_side}_positions": positions}, **options)
            assert torch.equal(named, out)
        if rotate_side != "q":  # queries that are not rotated have no positions to miss
            attend(q, k, K, **options)


def test_a_layer_without_rotation_takes_every_side():
    rope = hf.resolve(NOPE, layer=3)
    x = randn(1, 4, 1, 64)
    expected = attend(x, x, x, rope=rope)
    for side in ("q", "k", "none"):
        assert torch.equal(attend(x, x, x, rope=rope, rotate=side), expected)


WARNINGS = {
    "an index": (
        {"q_index": range(6), "k_index": range(6)},
        "an index rotates nothing: .* q and k",
    ),
    "keys alone": ({"k_positions": range(4, 10)}, "k_positions are given, but queries"),
    "a length": (
        {"rope": {"rope_type": "xpos"}, "rotate": "q", "positions": range(6)},
        "xpos depends on the length, .*: k must have been rotated for the same length",
    ),
}


@pytest.mark.parametrize(("options", "text"), WARNINGS.values(), ids=WARNINGS)
def test_warnings_of_attention(options, text):
    with pytest.warns(RopeWarning, match=text) as seen:
        attend(Q, K, K, **{"rope": ROPE} | options)
    assert [each.filename for each in seen] == [__file__]


def test_a_pack_of_more_keys_has_a_warning():
    with pytest.warns(RopeWarning, match="1 queries for 2 keys in a packed sequence"):
        attend(
            Q[0, :2], K[0, :4], K[0, :4], rope=ROPE, cu_seqlens_q=[0, 1, 2], cu_seqlens_k=[0, 2, 4]
        )
