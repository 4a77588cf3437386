"""New keys and values in pages, against the kernel that rotates."""

import math

import pytest
import torch

from rope_core import RopeConfig
from rope_core.kernels import rotary, scatter
from tests.core.oracle import randn

ROPES = (
    RopeConfig.of(16),
    RopeConfig.of(32, layout="interleaved"),
    RopeConfig.of(32, rotary_dim=16, trailing=True),
    RopeConfig.of(64, rotary_dim=16, layout="interleaved"),
)


def pages(count, heads, page_size, width, dtype):
    """Return pages full of NaN, as far apart as a page of keys and one of values."""
    memory = torch.full((count, 2, heads, page_size, width), math.nan, dtype=dtype)
    return memory[:, 0]


@pytest.mark.parametrize("rope", [*ROPES, None], ids=str)
def test_keys_and_values_in_pages(rope, dtype, device):
    head_dim, value_dim, heads, page_size, count = rope.head_dim if rope else 24, 24, 3, 4, 37
    k, v = (
        randn(heads, count, width, seed=i, dtype=dtype).transpose(0, 1).to(device)
        for i, width in enumerate((head_dim, value_dim))
    )
    keys, values = (
        pages(16, heads, page_size, width, dtype).to(device) for width in (head_dim, value_dim)
    )
    slots = torch.randperm(16 * page_size, generator=torch.Generator().manual_seed(0))[:count]
    slots, options, expected = slots.to(device), {}, k
    if rope is not None:
        positions = torch.arange(count, device=device) * 1000 - 9
        options = {"rotary_dim": rope.rotary_dim, "layout": rope.layout, "trailing": rope.trailing}
        options["inv_freq"] = rope.inv_freq.to(device)
        options["attention_scaling"] = 1.25
        expected = torch.empty_like(k)
        rotary.rotate([k], [expected], index=positions, **options)
        options["positions"] = positions
    scatter.scatter(k, v, keys, values, slots, **options)
    assert torch.equal(keys[slots // page_size, :, slots % page_size], expected)
    assert torch.equal(values[slots // page_size, :, slots % page_size], v)
    untouched = torch.ones(16 * page_size, dtype=torch.bool, device=device)
    untouched[slots] = False
    for memory in (keys, values):
        assert memory.transpose(1, 2).flatten(0, 1)[untouched].isnan().all()


def test_no_tokens(device):
    keys = pages(2, 1, 4, 16, torch.float32).to(device)
    scatter.scatter(keys[:0, :, 0], keys[:0, :, 0], keys, keys, torch.zeros(0, dtype=torch.int64))
    assert keys.isnan().all()
