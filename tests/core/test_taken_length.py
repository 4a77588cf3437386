"""Calls tell the length that decided their frequencies, and what decided it."""

import pytest
import torch

from rope_core import VARIANTS, Attend, ConfigError, CosSin, RopeConfig, Rotate, Shift, resolve
from tests.core.oracle import randn
from tests.core.specs import OF_LENGTH, TRAINED, every_variant, of_variant

LONG = 2 * TRAINED + 1


def unfixed(variant, **fields):
    return RopeConfig.of(16, rope_type=variant, **of_variant(variant), **fields)


def heads(*tokens):
    return randn(*tokens, 1, 16)


def test_each_call_tells_its_length_and_what_decided_it():
    rope, x = unfixed("longrope"), heads(2, 5)
    at = torch.tensor([[0, 1, 2, 3, 4], [9, 8, 700, 6, 5]])
    ends, packed = torch.tensor([0, 2, 9]), heads(9)
    counted = "tokens of {}, counted from 0"
    cases = [
        (Rotate(x, None, rope), 5, counted.format("the call: 5")),
        (Rotate(x, None, rope, at), 701, "positions of the call: max 700 + 1"),
        (Rotate(x, None, rope, at + 0.5), 702, "positions of the call: max 700.5 + 1, rounded up"),
        (Rotate(x, None, rope, at - 900), 0, "positions of the call: max -200 + 1, at least 0"),
        (Rotate(x, None, rope, at - 701), 0, "positions of the call: max -1 + 1"),
        (Rotate(x[:, :0], None, rope, at[:, :0]), 0, "positions of the call: none"),
        (Rotate(packed, None, rope, None, ends), 7, "longest sequence of the call: 7 tokens"),
        (Rotate(x, None, rope.for_length(5)), TRAINED, "rope.length"),
        (CosSin(at, rope), 701, "positions of the call: max 700 + 1"),
        (Attend(x, x, x, rope), 5, counted.format("q: 5")),
        (Attend(x[:, :1], x, x, rope), 5, counted.format("k: 5")),
        (Attend(x, x, x, rope, q_positions=at, k_positions=at), 701, "positions of the call: max"),
        (Attend(x, x, x, rope, q_positions=at), 701, "positions of q: max 700 + 1"),
        (Attend(x, x, x, rope, k_positions=at), 701, "positions of k: max 700 + 1"),
    ]
    for call, value, source in cases:
        assert call.length.value == value, source
        assert call.length.source.startswith(source)
    shift = Shift(x, torch.tensor(2), rope.for_length(900), at, rope)
    assert shift.length == (TRAINED + 1, "rope.length")
    assert shift.to_length == (703, "positions of the shifted keys: max 702 + 1")
    fixed = Shift(x, torch.tensor(2), RopeConfig.of(16), at, rope.for_length(900))
    assert (fixed.length, fixed.to_length) == (None, (TRAINED + 1, "to.length"))
    assert Attend(x, x, x, rope, rotate="none").length is None


@every_variant
def test_other_variants_have_no_length(variant):
    rope, call = unfixed(variant), Rotate(heads(3), None, unfixed(variant))
    assert rope.depends_on_length == (variant in OF_LENGTH)
    assert (rope.length_dependence is None) == (call.length is None) == (variant not in OF_LENGTH)


def test_dynamic_takes_at_least_the_maximum():
    rope = unfixed("dynamic")
    lengths = [Rotate(heads(n), None, rope).length for n in (1, TRAINED - 1, TRAINED, LONG)]
    assert [length.value for length in lengths] == [TRAINED, TRAINED, TRAINED, LONG]
    assert lengths[0] == lengths[1] == (TRAINED, "max_position_embeddings")
    assert lengths[2].source == f"tokens of the call: {TRAINED}, counted from 0"
    fixed = unfixed("dynamic", length=3)
    assert Rotate(heads(LONG), None, fixed).length == (TRAINED, "max_position_embeddings")


@pytest.mark.parametrize("variant", sorted(OF_LENGTH))
def test_a_negative_length_is_refused(variant):
    with pytest.raises(ConfigError, match=r"^length must be a number of at least 0, got -4$"):
        unfixed(variant, length=-4)


def tables(variant, length):
    """Return all that the length may change."""
    table = VARIANTS[variant].function
    parameters = of_variant(variant) | {"length": length}
    frequencies = table(1e4, 16, torch.float64, **parameters)[0]
    centre = length // 2 if variant == "xpos" else 0
    return (*frequencies.tolist(), centre)


@pytest.mark.parametrize("variant", OF_LENGTH)
def test_the_rotation_changes_above_the_length_that_is_told_and_not_below(variant):
    rope = unfixed(variant)
    dependence = rope.length_dependence
    up_to = {tables(variant, length) for length in range(dependence.above + 1)}
    assert len(up_to) == 1
    beyond = [tables(variant, dependence.above + n) for n in (1, 9, 90)]
    assert up_to.isdisjoint(beyond)
    assert (len({*beyond}) == 1) == (dependence.longer_calls == "alike")
    key = dependence.parameter
    assert dependence.above == (1 if key is None else dict(rope.parameters)[key])
    assert len({rope.for_length(length) for length in range(dependence.above + 1)}) == 1


def test_released_configs_tell_from_which_length_on_they_change():
    phi = resolve("phi-3.5-mini-instruct").rope.length_dependence
    assert (phi.above, phi.parameter) == (4096, "original_max_position_embeddings")
    assert resolve("llama-3.1-8b").rope.length_dependence is None
