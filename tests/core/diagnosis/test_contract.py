"""What answers hold for any mistake: ropes that reproduce the numbers, what is measured, edges."""

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rope_core import AttentionConfig, RopeConfig, attend, resolve, rotate
from rope_core.diagnosis.calls import rounded
from rope_core.diagnosis.diagnose import diagnose

ROPE = RopeConfig(head_dim=32)
CAUSAL = AttentionConfig(causal=True)
LONG = {
    "head_dim": 32,
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [1.0 + i for i in range(16)],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}
MSCALE = {"short_mscale": 1.1, "long_mscale": 1.2}
LLAMA3 = {
    "head_dim": 32,
    "theta": 5e5,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
AT = torch.arange(100, 148)
X = torch.randn(1, 48, 2, 32, generator=torch.Generator().manual_seed(0))


def by(row: Tensor, gain: float = 1.0) -> Tensor:
    """Return X, rotated by frequencies."""
    turn = torch.cat((angles := AT[:, None] * row.double(), angles), -1)[:, None]
    first, second = X.double().chunk(2, -1)
    return ((X * turn.cos() + torch.cat((-second, first), -1) * turn.sin()) * gain).float()


def frequencies(rope: Any) -> Tensor:
    config = resolve(rope).rope
    assert config is not None
    return config.inv_freq.double()


PLAIN, SCALED = frequencies(ROPE), frequencies(LLAMA3)
SHORT = frequencies({**LONG, "length": 1})
REPRODUCED: dict[str, tuple[Any, Tensor]] = {
    "position_scaled": (ROPE, by(PLAIN / 8)),
    "position_scaled of llama3": (LLAMA3, by(SCALED / 2)),
    "rotated_twice": (ROPE, by(2 * PLAIN)),
    "angles_rounded": (ROPE, by(PLAIN.bfloat16())),
    "gain_wrong": (LLAMA3, by(SCALED, 1.3)),
    "gain_wrong beside mscale": ({**LONG, **MSCALE, "length": 1}, by(SHORT, 1.3)),
    "longrope_other_list": (LONG, by(SHORT, math.sqrt(1 + math.log(4) / math.log(64)))),
}


@pytest.mark.parametrize("name", REPRODUCED)
def test_a_rope_reproduces_the_numbers(name: str) -> None:
    rope, after = REPRODUCED[name]
    [explanation, *_] = diagnose(rope, before=X, after=after, positions=AT).explanations
    assert [one.code for one in explanation.mistakes] == [name.split(" ")[0]]
    assert explanation.rope is not None
    again = rotate(X, rope=explanation.rope, positions=AT)
    torch.testing.assert_close(again, after, atol=1e-4, rtol=0)


def test_frequencies_that_turn_the_other_way() -> None:
    [explanation] = diagnose(ROPE, inv_freq=-PLAIN).explanations
    assert [one.code for one in explanation.mistakes] == ["direction_reversed"]


def test_a_table_in_float64_is_read_as_it_is() -> None:
    angles = AT[:, None] * PLAIN
    diagnosis = diagnose(ROPE, cos=angles.cos(), sin=-angles.sin(), positions=AT)
    assert [one.code for one in diagnosis.explanations[0].mistakes] == ["direction_reversed"]
    assert diagnosis.error.max_abs == pytest.approx(2, rel=0.01)


def test_a_table_of_one_position() -> None:
    diagnosis = diagnose(ROPE, cos=torch.ones(16), sin=torch.zeros(16))
    assert diagnosis.verdict == "agrees"
    assert diagnosis.next_probe is not None


def test_what_a_scaled_table_says() -> None:
    angles = AT[:, None] * PLAIN / 8
    diagnosis = diagnose(ROPE, cos=angles.cos(), sin=angles.sin(), positions=AT)
    measured = diagnosis.measured
    assert measured is not None
    assert (measured.rope_type, measured.rotary_dim) == ("default", 32)
    assert measured.theta == pytest.approx(10_000, rel=1e-4)
    assert measured.position_scale == pytest.approx(1 / 8)


def test_texts_of_two_mistakes_follow_each_other() -> None:
    diagnosis = diagnose(ROPE, inv_freq=PLAIN[:4])
    texts = [one.text for explanation in diagnosis.explanations for one in explanation.mistakes]
    assert "The exponents of the frequencies are divided by 32 instead of 8." in texts


def test_which_positions_tell_more() -> None:
    """Positions are doubled: no position tells a rotation that is applied twice from it."""
    twice = diagnose(ROPE, before=X, after=by(2 * PLAIN), positions=AT)
    assert {one.mistakes[0].code for one in twice.explanations} == {
        "rotated_twice",
        "position_scaled",
    }
    assert twice.next_probe is None
    moved = rotate(X[:, :2], rope=ROPE, positions=[6, 6])
    found = diagnose(ROPE, before=X[:, :2], after=moved, positions=[4, 4])
    assert len(found.explanations) > 1
    assert found.next_probe == "send tokens at different positions, such as 1 and 4096"
    near = diagnose(ROPE, before=X, after=by(PLAIN, 2.0), positions=AT // 100)
    assert near.next_probe == "send tokens at different positions, such as 1 and 4096"


def test_positions_beyond_float16_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rounded(
            torch.tensor([65_519.0, 65_520.0, -1e5], dtype=torch.float64), torch.float16
        )
    assert found.tolist() == [65_504.0, math.inf, -math.inf]


def test_tokens_of_zeros_hide_no_frequency() -> None:
    x = X * (torch.arange(48) % 24 < 12)[:, None, None]
    measured = diagnose(ROPE, before=x, after=rotate(x, rope=ROPE, positions=AT), positions=AT)
    assert measured.measured is not None
    assert not measured.measured.unresolved_pairs
    assert measured.measured.position_offset == 0  # not the rounding of the angles


def test_fewer_tokens_than_heads_on_several_axes() -> None:
    rope = {"head_dim": 32, "axes": "mrope", "mrope_section": [4, 6, 6]}
    x = X.view(1, 2, 48, 32)
    diagnosis = diagnose(rope, before=x, after=x.roll(1, -1) * 0.9)
    assert diagnosis.verdict == "unexplained"


def test_attention_of_the_other_arithmetic_agrees_with_a_warning() -> None:
    """Angles of 130,000 radians are off by some thousandths in float32."""
    at, x = torch.arange(40) + 130_000, 3 * X[:, :40]
    rope = RopeConfig(head_dim=32, theta=5e5)
    tensors: dict[str, Any] = {"q": x, "k": x.roll(7, 1), "v": X[:, :40]}
    given: dict[str, Any] = {"attention": CAUSAL, "positions": at}
    out = attend(**tensors, rope=replace(rope, arithmetic="hf"), **given)
    diagnosis = diagnose(rope, **tensors, out=out, **given, tolerance=1e-4)
    assert diagnosis.verdict == "agrees"
    [warning] = diagnosis.warnings
    assert "float32 arithmetic" in warning
