"""Tables on a device: what they are made from is copied there once, and the host reads nothing."""

import pytest
import torch

from rope_core import RopeConfig, ragged
from rope_core.angles import angles_at, token_angles
from tests.core.launches import META, Launches
from tests.core.specs import every_scheme, every_variant, rope_of, scheme_of


def positions(rope, tokens=64):
    shape = (rope.num_axes, tokens) if rope.num_axes > 1 else (tokens,)
    return torch.empty(shape, dtype=torch.int64, device=META)


def check_second_call(first, second):
    """Fail where the angles of an equal rope copy anything to the device again."""
    angles_at(positions(first), first)
    with Launches() as launches:
        at = angles_at(positions(second), second)
    assert at.cos.device == META
    assert launches.total <= 15, launches.counts


@every_scheme
def test_columns_of_a_scheme_are_copied_once(scheme):
    rope = scheme_of(scheme)
    check_second_call(rope, rope)


@every_variant
def test_frequencies_of_a_variant_are_copied_once(variant):
    rope = rope_of(variant)
    check_second_call(rope, rope)


def test_an_equal_rope_finds_the_copy():
    check_second_call(
        *(RopeConfig.of(128, theta=12_345.0, rope_type="xpos") for _ in range(2)),
    )


@pytest.mark.parametrize("learned", ["log_scale", "frequencies"])
def test_learned_frequencies_stay_on_their_device(learned):
    rope = RopeConfig.of(64, learned=learned)
    shape = (3, 4, 32) if learned == "frequencies" else (32,)
    frequencies = torch.empty(shape, device=META)
    at = torch.empty((3, 10) if learned == "frequencies" else (10,), device=META)
    angles_at(at, rope, frequencies)
    with Launches() as launches:  # raises at a copy between devices
        assert angles_at(at, rope, frequencies).cos.device == META
    assert launches.total <= 15, launches.counts


def test_a_pack_without_positions_counts_on_the_device():
    x = torch.empty(4096, 8, 64, device=META)
    ends = torch.empty(257, dtype=torch.int32, device=META)
    rope = RopeConfig.of(64, layout="interleaved_tiled")
    token_angles(x, None, ends, rope)
    with Launches() as launches:
        counted = ragged.sequence_positions(4096, ends, META)
        token_angles(x, None, ends, rope)
    assert counted.dtype is torch.int64
    assert launches.total <= 20, launches.counts


@pytest.mark.parametrize("ends", [[0, 7], [0, 3, 3, 7], [0, 0, 1, 2, 7, 7], [0, 0]], ids=str)
def test_where_sequences_start_is_found_as_on_the_cpu(ends):
    ends = torch.tensor(ends)
    tokens = torch.arange(int(ends[-1]))
    counted = tokens - ragged.sequence_starts(tokens, ends)
    assert torch.equal(counted, ragged.sequence_positions(len(tokens), ends, tokens.device))
