"""Rotation by the cached table: the bits of `rotate`, and a table that grows when it is due."""

import math

import pytest
import torch

from rope_core import RopeConfig, Rotate, rotate
from rope_core.angles import MIN_TABLE_ROWS, TABLE_ELEMENTS, TABLE_ROWS_PER_TOKEN
from rope_core.table_rotation import TableRotation, table_rotation
from tests.core.oracle import DTYPES, LAYOUTS, randn

ROPE = RopeConfig.of(16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((7, 3, 16), torch.arange(7) * 31),
        ((2, 7, 3, 16), torch.arange(7) * 31),
        ((2, 7, 3, 16), torch.arange(14).view(2, 7)),
        ((2, 7, 3, 16), None),
        ((300, 1, 16), None),
        ((2, 1, 16), torch.tensor([5, 1000])),
    ],
)
def test_bits_of_rotate(dtype, layout, shape, positions):
    x = randn(*shape, dtype=dtype)
    rope = RopeConfig.of(16, layout=layout, rotary_dim=12)
    rotated, largest = TableRotation(rope).rotate(x, positions)
    assert torch.equal(rotated, rotate(Rotate(x, None, rope, positions)).q)
    assert largest == float(x.abs().max())


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_the_largest_number_of_any_row(row, value):
    x = randn(3, 5, 2, 16)
    x[row, 4, 1, 15] = value
    _, largest = TableRotation(ROPE).rotate(x, torch.arange(5))
    assert math.isnan(largest) if math.isnan(value) else largest == math.inf


@pytest.mark.parametrize(
    ("x", "positions"),
    [
        (randn(2, 1, 16), torch.tensor([0, -1])),
        (randn(2, 1, 16), torch.tensor([0, 2**62])),
        (randn(2, 1, 16), torch.tensor([0, 1], dtype=torch.int32)),
        (randn(2, 1, 16), torch.tensor([0.0, 0.5])),
        (randn(2, 1, 32)[..., ::2], torch.tensor([0, 1])),
        (randn(2, 2, 1, 16), torch.tensor([0, 1]).expand(2, -1)),
        (randn(0, 1, 16), None),
    ],
)
def test_what_the_table_does_not_rotate(x, positions):
    assert TableRotation(ROPE).rotate(x, positions) is None


def test_the_table_grows_for_as_many_tokens_as_it_is_worth():
    table, positions = TableRotation(ROPE), torch.full((4,), 4000)
    rows, calls = 4096, 0
    while table.rotate(randn(4, 1, 16), positions) is None:
        assert table.num_rows == MIN_TABLE_ROWS
        calls += 1
    assert table.num_rows == rows
    assert calls == rows // (4 * TABLE_ROWS_PER_TOKEN) - 1


def test_the_table_has_a_limit():
    table = TableRotation(ROPE)
    largest = TABLE_ELEMENTS // ROPE.half
    assert not table.reserve(largest + 1)
    assert table.num_rows == MIN_TABLE_ROWS
    assert table.reserve(largest)
    assert table.num_rows == largest


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": "interleaved_to_half"},
        {"rounding": "tables"},
        {"arithmetic": "hf"},
        {"blocks": 2},
        {"rope_type": "xpos"},
        {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 64, "length": 128},
        {"axes": "mrope", "mrope_section": (3, 3, 2)},
        {"learned": "log_scale"},
    ],
)
def test_ropes_without_a_table(fields):
    assert table_rotation(RopeConfig.of(16, **fields)) is None
    assert table_rotation(ROPE) is table_rotation(RopeConfig.of(16))
