"""Moves of tokens between slots, shifts of stored keys, and other ropes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rope_core import RopeConfig
from rope_core.kvcache.plan import Move, MovePlan, PageCopy
from rope_core.kvcache.run import run_moves
from tests.core.kvcache_run.build import Row, append, group_of, pages_of
from tests.core.kvcache_run.test_attend import every_dtype, off, randn
from tests.core.kvcache_run.test_bits import ROPES, every_rope, positions_of

BAR = {torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 5e-3}
COUNT, LAYERS = 20, 2


def filled(rope, dtype, positions, seed=0):
    """Return a row of 20 tokens in two layers, and its slots."""
    group = group_of(rope, head_dim=32, layers=LAYERS)
    row = Row(pages_of(group, dtype, 8, seed=seed), group, dtype)
    row.open_segment()
    for layer in range(LAYERS):
        row.segments[0].num_keys = row.length = 0
        k, v = (randn(COUNT, 2, 32, seed=10 * layer + i, dtype=dtype) for i in range(2))
        append(row, k, v, positions, layer)
    groups = row.segments[0].page_groups
    return row, [groups[i // 8] * 8 + i % 8 for i in range(COUNT)]


def at(row, slots, layer, tensor):
    return torch.stack([tensor[slot // 8 + layer, :, slot % 8] for slot in slots])


@every_dtype
def test_tokens_that_move_keep_their_bits(dtype):
    row, slots = filled(ROPES["half"], dtype, torch.arange(COUNT))
    sources, targets = [slots[i] for i in (3, 5, 9, 14)], [slots[i] for i in (2, 3, 5, 9)]
    tensors = row.pages.keys, row.pages.values
    before = [at(row, sources, layer, x) for layer in range(LAYERS) for x in tensors]
    run_moves(MovePlan([], [], [Move(row.pages, row.group, np.array(sources), np.array(targets))]))
    after = [at(row, targets, layer, x) for layer in range(LAYERS) for x in tensors]
    assert all(map(torch.equal, before, after))
    assert torch.equal(
        at(row, slots[15:], 1, row.pages.values), randn(COUNT, 2, 32, seed=11, dtype=dtype)[15:]
    )


@every_rope
@every_dtype
def test_a_shift_of_stored_keys(rope, dtype):
    if rope is None:
        return
    positions = positions_of(rope, COUNT)
    delta = torch.tensor([-30, 7, 5000])[torch.arange(COUNT) % 3]
    if rope.num_axes > 1:
        delta = torch.stack((delta, delta // 5, delta % 3))
    if rope.rope_type == "xpos":
        delta = delta.clamp(max=500)
    row, slots = filled(rope, dtype, positions)
    moved, same = filled(rope, dtype, positions + delta)
    groups = [row.pages.free.pop() for _ in range(3)]
    other = [groups[i // 8] * 8 + i % 8 for i in range(COUNT)]
    run_moves(
        MovePlan(
            [],
            [],
            [
                Move(
                    row.pages,
                    row.group,
                    np.array(slots),
                    np.array(other),
                    delta.numpy(),
                    None,
                    positions.numpy(),
                )
            ],
        )
    )
    for layer in range(LAYERS):
        k = at(row, other, layer, row.pages.keys)
        truth = at(moved, same, layer, moved.pages.keys)
        bar = 3e-4 if rope.arithmetic == "hf" and dtype == torch.float32 else BAR[dtype]
        assert off(k, truth.double()) <= bar
        assert torch.equal(
            at(row, other, layer, row.pages.values), at(moved, same, layer, moved.pages.values)
        )


OTHERS = {
    "other frequencies": RopeConfig.of(
        32, rope_type="yarn", factor=8.0, original_max_position_embeddings=32
    ),
    "none": None,
    "no rotation": RopeConfig.of(32, layout="interleaved_tiled"),
}


@pytest.mark.parametrize("to", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("delta", [0, 9])
@every_dtype
def test_another_rope(to, delta, dtype):
    positions = torch.arange(COUNT) + 50
    row, slots = filled(ROPES["half"], dtype, positions)
    fresh, same = filled(to, dtype, positions + delta)
    move = Move(
        row.pages,
        row.group,
        np.array(slots),
        np.array(slots),
        None,
        replace(row.group, rope=to),
        positions.numpy(),
    )
    move.delta = np.full(COUNT, delta) if delta else None
    run_moves(MovePlan([], [], [move]))
    for layer in range(LAYERS):
        k, truth = at(row, slots, layer, row.pages.keys), at(fresh, same, layer, fresh.pages.keys)
        assert off(k, truth.double()) <= BAR[dtype]


def test_copies_come_first():
    row, _ = filled(ROPES["half"], torch.float32, torch.arange(COUNT))
    source, target = row.segments[0].page_groups[0], row.pages.free.pop()
    before = row.pages.keys[source : source + LAYERS].clone()
    move = Move(row.pages, row.group, np.array([target * 8 + 7]), np.array([target * 8]))
    run_moves(MovePlan([PageCopy(row.pages, source, target)], [], [move]))
    assert torch.equal(row.pages.keys[source : source + LAYERS], before)
    assert torch.equal(row.pages.keys[target + 1, :, 0], before[1, :, 7])
