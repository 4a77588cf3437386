"""Diagnose attention, with evidence of a small attention that shares no code with the product."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rope_core import AttentionConfig, ConfigError, ShapeError
from rope_core.diagnosis.diagnose import diagnose
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.result import Diagnosis
from rope_core.errors import HEADS_FIRST

D, H, HKV, S = 16, 8, 2, 40
ROPE = {"head_dim": D, "theta": 10_000.0}


def rotated(x: Tensor, positions: Tensor, theta: float = 1e4, layout: str = "half") -> Tensor:
    """Rotate heads `[B, S, H, D]`."""
    angles = positions.double()[:, None, None] * theta ** -(torch.arange(D // 2) * 2 / D).double()
    if layout == "half":
        first, second = x[..., : D // 2], x[..., D // 2 :]
    else:
        first, second = x[..., ::2], x[..., 1::2]
    pairs = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    if layout == "half":
        return torch.cat((pairs.real, pairs.imag), -1)
    return torch.stack((pairs.real, pairs.imag), -1).flatten(-2)


def theirs(q: Tensor, k: Tensor, v: Tensor, **wrong: Any) -> tuple[Tensor, Tensor]:
    """Return what code computes that has `wrong` in place of the right options."""
    use: dict[str, Any] = {
        "scale": D**-0.5,
        "causal": True,
        "window": None,
        "chunk": None,
        "softcap": None,
        "sinks": None,
        "mask": None,
        "tiled": False,
        "sides": "qk",
        "theta": 1e4,
        "layout": "half",
        "q_offset": 0,
        "first": None,
        "base": math.e,
        "lse_sinks": True,
        "shift": 0.0,
    } | wrong
    q, k, v = q.double(), k.double(), v.double()
    num_q, num_k = q.shape[1], k.shape[1]
    q_at, k_at = torch.arange(num_k - num_q, num_k), torch.arange(num_k)
    rope = use["theta"], use["layout"]
    if "q" in use["sides"]:
        q = rotated(q, q_at + use["q_offset"], *rope)
    if "k" in use["sides"]:
        k = rotated(k, k_at, *rope)
    if "v" in use["sides"]:
        v = rotated(v, k_at, *rope)
    heads = torch.arange(H)
    heads = heads % HKV if use["tiled"] else heads // (H // HKV)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k[:, :, heads]) * use["scale"]
    if use["softcap"]:
        scores = use["softcap"] * (scores / use["softcap"]).tanh()
    i = q_at[:, None] if use["first"] is None else torch.arange(num_q)[:, None] + use["first"]
    hidden = (k_at > i) & use["causal"]
    if use["window"]:
        hidden = hidden | (i - k_at >= use["window"])
    if use["chunk"]:
        hidden = hidden | (i // use["chunk"] != k_at // use["chunk"])
    if use["mask"] is not None:
        hidden = hidden | ~use["mask"]
    scores = scores.masked_fill(hidden, -math.inf)
    extra = torch.full((H,), -math.inf) if use["sinks"] is None else use["sinks"]
    extra = extra.double().view(1, H, 1, 1).expand(*scores.shape[:3], 1)
    weights = torch.cat((scores, extra), -1).softmax(-1)[..., :-1]
    lse = (torch.cat((scores, extra), -1) if use["lse_sinks"] else scores).logsumexp(-1)
    lse = (lse + use["shift"]) / math.log(use["base"])
    out = torch.einsum("bhqk,bkhd->bqhd", weights, v[:, :, heads])
    return out.float(), lse.transpose(1, 2).float()


def tensors(num_queries: int = S) -> dict[str, Any]:
    """Return q, k and v."""
    numbers = torch.Generator().manual_seed(7)
    q = 3 * torch.randn(1, num_queries, H, D, generator=numbers)
    return {
        "q": q,
        "k": torch.randn(1, S, HKV, D, generator=numbers),
        "v": torch.randn(1, S, HKV, D, generator=numbers),
    }


SINKS = torch.linspace(-1, 1, H)
MASK = torch.arange(S) % 5 != 1

# Code, its parameters, what is right (options of attention), what is wrong.
SINGLES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("scale_wrong", {"scale": 0.3}, {}, {"scale": 0.3}),
    ("scale_wrong", {"scale": 1.0}, {}, {"scale": 1.0}),
    ("q_not_rotated", {}, {}, {"sides": "k"}),
    ("k_not_rotated", {}, {}, {"sides": "q"}),
    ("v_rotated", {}, {}, {"sides": "qkv"}),
    ("causal_missing", {}, {}, {"causal": False}),
    ("window_off_by_one", {"window": 9}, {"window": 8}, {"window": 9}),
    ("window_off_by_one", {"window": 7}, {"window": 8}, {"window": 7}),
    ("window_ignored", {}, {"window": 8}, {"window": None}),
    ("chunk_ignored", {}, {"chunk": 16}, {"chunk": None}),
    ("softcap_missing", {}, {"softcap": 4.0}, {"softcap": None}),
    ("softcap_wrong", {"softcap": 2.5}, {"softcap": 4.0}, {"softcap": 2.5}),
    ("sinks_missing", {}, {"sinks": SINKS}, {"sinks": None}),
    ("mask_ignored", {}, {"mask": MASK}, {"mask": None}),
    ("heads_tiled", {}, {}, {"tiled": True}),
    ("lse_base_2", {}, {}, {"base": 2.0}),
    ("lse_without_sink", {}, {"sinks": SINKS}, {"lse_sinks": False}),
    ("lse_shifted", {"shift": 0.75}, {}, {"shift": 0.75}),
    ("wrong_base", {"theta": 123_000.0}, {}, {"theta": 123_000.0}),
    ("layout_swapped", {"layout": "interleaved"}, {}, {"layout": "interleaved"}),
    ("not_rotated", {}, {}, {"sides": ""}),
]
PAIRS: list[tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]] = [
    (
        {"scale_wrong": {"scale": 0.2}, "layout_swapped": {"layout": "interleaved"}},
        {},
        {"scale": 0.2, "layout": "interleaved"},
    ),
    ({"causal_missing": {}, "heads_tiled": {}}, {}, {"causal": False, "tiled": True}),
    (
        {"wrong_base": {"theta": 70_000.0}, "window_ignored": {}},
        {"window": 8},
        {"theta": 70_000.0, "window": None},
    ),
]


def diagnosis(right: dict[str, Any], wrong: dict[str, Any], num_queries: int = S) -> Diagnosis:
    """Diagnose evidence with `wrong` in place of `right`."""
    given = tensors(num_queries)
    out, lse = theirs(**given, **{**right, **wrong})
    others = {name: right[name] for name in ("sinks", "mask") if name in right}
    options = {name: value for name, value in right.items() if name not in others}
    if "mask" in others:
        others["mask"] = MASK.expand(num_queries, S)
    positions: dict[str, Any] = {
        "q_positions": torch.arange(S - num_queries, S),
        "k_positions": torch.arange(S),
    }
    return diagnose(
        ROPE, **given, out=out, lse=lse, attention=AttentionConfig(**options), **others, **positions
    )


def approximately(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters that equal those within 1 %."""
    return {
        name: pytest.approx(value, rel=0.01) if isinstance(value, float) else value
        for name, value in parameters.items()
    }


@pytest.mark.parametrize(
    ("code", "parameters", "right", "wrong"), SINGLES, ids=[f"{row[0]}-{row[3]}" for row in SINGLES]
)
def test_one_mistake_is_named(
    code: str, parameters: dict[str, Any], right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    found = diagnosis(right, wrong)
    assert found.verdict == "explained"
    (first,) = found.explanations[0].mistakes
    assert first.code == code
    assert {name: first.parameters[name] for name in parameters} == approximately(parameters)
    assert "{" not in first.text
    assert found.explanations[0].relative_error < 1e-5
    assert found.error.first_position is None


@pytest.mark.parametrize(
    ("mistakes", "right", "wrong"), PAIRS, ids=["+".join(row[0]) for row in PAIRS]
)
def test_two_mistakes_are_named(
    mistakes: dict[str, dict[str, Any]], right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    found = diagnosis(right, wrong)
    named = {one.code: one.parameters for one in found.explanations[0].mistakes}
    assert named.keys() == mistakes.keys()
    for code, parameters in mistakes.items():
        got = {name: named[code][name] for name in parameters}
        assert got == approximately(parameters)


@pytest.mark.parametrize("num_queries", [1, 8])
def test_an_offset_of_the_queries_is_named_with_its_side(num_queries: int) -> None:
    found = diagnosis({}, {"q_offset": -13}, num_queries)
    sides = [dict(one.mistakes[0].parameters) for one in found.explanations]
    assert {"side": "q", "offset": -13} in sides
    assert {"side": "k", "offset": 13} in sides  # the same operator


@pytest.mark.parametrize("num_queries", [1, 8])
def test_a_mask_that_counts_queries_from_zero_is_named(num_queries: int) -> None:
    found = diagnosis({}, {"first": 0}, num_queries)
    assert found.explanations[0].mistakes[0].code == "causal_top_left"


@pytest.mark.parametrize("right", [{}, {"window": 8, "softcap": 4.0}, {"sinks": SINKS}])
def test_right_numbers_agree(right: dict[str, Any]) -> None:
    found = diagnosis(right, {})
    assert (found.verdict, found.explanations, found.next_probe) == ("agrees", (), None)


def test_noise_is_not_explained() -> None:
    given = tensors()
    out, _ = theirs(**given)
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    wrong = out + 0.01 * out.std() * noise
    found = diagnose(ROPE, **given, out=wrong, max_mistakes=1)
    assert (found.verdict, found.explanations) == ("unexplained", ())
    assert found.next_probe is not None


def test_one_key_proves_nothing() -> None:
    given: dict[str, Any] = {name: x[:, :1] for name, x in tensors().items()}
    found = diagnose(ROPE, **given, out=given["v"].repeat_interleave(H // HKV, 2))
    assert found.verdict == "agrees"
    assert found.next_probe is not None
    assert "more than one token" in found.next_probe


@pytest.mark.parametrize("query_heads", [1, H])
def test_queries_that_see_no_key_are_diagnosed(query_heads: int) -> None:
    few = {name: x[:, :3, : query_heads if name == "q" else 1] for name, x in tensors().items()}
    out = torch.ones(1, 3, query_heads, D)
    found = diagnose(ROPE, **few, out=out, q_index=[-3, -2, -1], max_mistakes=1)
    assert (found.verdict, found.error.relative) == ("unexplained", None)


def test_a_number_that_is_none_is_told_as_a_warning() -> None:
    given = tensors()
    out, _ = theirs(**given)
    out[0, 3] = math.nan
    found = diagnose(ROPE, **given, out=out)
    assert (found.verdict, found.error.relative, found.error.max_abs) == ("unexplained", None, None)
    assert any("NaN" in warning for warning in found.warnings)


def test_zeros_agree_with_zeros() -> None:
    given = tensors() | {"v": torch.zeros(1, S, HKV, D)}
    found = diagnose(ROPE, **given, out=torch.zeros(1, S, H, D))
    assert (found.verdict, found.error.relative) == ("agrees", None)
    assert found.warnings


def test_half_precision_grows_with_the_scores() -> None:
    half: dict[str, Any] = {name: x.to(torch.bfloat16) for name, x in tensors().items()}
    out, _ = theirs(**half)
    small = diagnose(ROPE, **half, out=out.bfloat16())
    large = diagnose(ROPE, **half | {"q": 10 * half["q"]}, out=out.bfloat16(), max_mistakes=1)
    assert small.verdict == "agrees"
    assert 2e-2 < small.error.tolerance < large.error.tolerance


def test_evidence_of_another_shape_is_refused() -> None:
    given = tensors()
    with pytest.raises(ShapeError, match="out"):
        diagnose(ROPE, **given, out=torch.zeros(1, S, H, D + 1))
    with pytest.raises(ConfigError, match="positions"):
        diagnose(
            ROPE, **given, out=torch.zeros(1, S, H, D), positions=range(S), q_positions=range(S)
        )


def test_every_mistake_of_attention_is_tried() -> None:
    tried = {row[0] for row in SINGLES} | {"causal_top_left", "softmax_scale_missing_mscale"}
    of_attention = {code for code, one in MISTAKES.items() if one.evidence == ("attention",)}
    assert of_attention <= tried


def test_heads_first_is_a_warning():
    """Tensors `[B, H, S, D]` look like few tokens of many heads; printing has no tensors."""
    q, k = torch.zeros(1, 8, 64, D), torch.zeros(1, 2, 64, D)
    found = diagnose(ROPE, q=q, k=k, v=k, out=torch.ones_like(q))
    assert found.warnings == (HEADS_FIRST,)
    assert "tensor(" not in repr(found)
