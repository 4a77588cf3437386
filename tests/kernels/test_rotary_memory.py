"""Which memory a rotation reads and writes: strides, pages, in place."""

import math

import pytest
import torch

from rope_core.errors import KernelFailed
from rope_core.kernels.rotary import rotate
from rope_core.kernels.runtime import INTERPRETED
from tests.core.oracle import off, randn
from tests.kernels.rotations import (
    expected_rotation,
    inv_freq_of,
    qk,
    rotate_by_position,
    rotate_by_table,
)


def strided_views(tokens, heads, width, dtype, device):
    """Yield memory that holds NaN, and a view `[tokens, heads, width]` of it, of every kind."""

    def nan_filled(*shape):
        return torch.full(shape, math.nan, dtype=dtype, device=device)

    packed = nan_filled(tokens, 3, heads, width)
    yield packed, packed[:, 1]
    padded = nan_filled(tokens, heads, width + 3)
    yield padded, padded[..., 2:-1]
    by_head = nan_filled(heads, tokens, width)
    yield by_head, by_head.transpose(0, 1)
    sparse = nan_filled(2 * tokens, 2 * heads, 2 * width)
    yield sparse, sparse[::2, ::2, :width]
    odd = nan_filled(tokens * heads * width + 1)
    yield odd, odd[1:].view(tokens, heads, width)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(8, 8), (7, 4)])
def test_any_strides_give_the_same_bits_and_nothing_else_is_written(
    head_dim, rotary_dim, layout, dtype, device
):
    positions = torch.tensor([4, 0, -2])
    (x,) = qk(3, [2], head_dim, device, dtype)
    (expected,) = rotate_by_position([x], positions, layout, rotary_dim=rotary_dim)
    for (_, x_view), (memory, out) in zip(
        strided_views(3, 2, head_dim, dtype, device),
        strided_views(3, 2, head_dim, dtype, device),
        strict=True,
    ):
        x_view.copy_(x)
        rotate_by_position([x_view], positions, layout, rotary_dim=rotary_dim, outs=[out])
        assert torch.equal(out, expected)
        assert torch.equal(x_view, x), "the input is not written"
        out.fill_(math.nan)
        assert memory.isnan().all(), "nothing else is written"
        rotate_by_position([x_view], positions, layout, rotary_dim=rotary_dim, outs=[x_view])
        assert torch.equal(x_view, expected)


def test_strides_beyond_32_bits(layout, device):
    (x,) = qk(3, [2], 8, device, torch.float16)
    far = torch.empty(2 * (2**30 + 16) + 16, dtype=torch.float16, device=device)
    spread = far.as_strided((3, 2, 8), (2**30 + 16, 8, 1))
    spread.copy_(x)
    positions = torch.tensor([4, 0, -2])
    rotate_by_position([spread], positions, layout, outs=[spread])
    assert torch.equal(spread, rotate_by_position([x], positions, layout)[0])


def test_heads_that_share_memory(layout, device):
    (x,) = qk(3, [1], 8, device)
    positions = torch.tensor([4, 0, -2])
    (y,) = rotate_by_position([x.expand(3, 5, 8)], positions, layout)
    assert torch.equal(y, rotate_by_position([x], positions, layout)[0].expand(3, 5, 8))


def test_empty_tensors(layout, device):
    for tokens, heads in ((0, [2, 1]), (3, [0]), (0, [0, 0])):
        xs, positions = qk(tokens, heads, 8, device), torch.arange(tokens)
        assert [y.shape for y in rotate_by_position(xs, positions, layout)] == [x.shape for x in xs]
    q, k = rotate_by_position(qk(3, [0, 2], 8, device), torch.arange(3), layout)
    assert not k.isnan().any()
    q, k = rotate_by_position(qk(3, [2, 0], 8, device), torch.arange(3), layout)
    assert not q.isnan().any()


@pytest.mark.parametrize(("trailing", "rotary_dim"), [(False, 8), (False, 4), (True, 6)])
def test_keys_in_pages_are_shifted_in_place(trailing, rotary_dim, layout, dtype, device):
    pool = randn(5, 2, 3, 4, 8, dtype=dtype).to(device)  # pages, k and v, Hkv, page_size, D
    before = pool.clone()
    block_table, seqlens = [[3, 0], [4, 2]], [6, 3]
    delta, slots = [], []
    for table, length, moved in zip(block_table, seqlens, (-2, 2**33), strict=True):
        slots += [table[t // 4] * 4 + t % 4 for t in range(length)]
        delta += [moved] * length
    slots, delta = torch.tensor(slots), torch.tensor(delta)
    pages = [pool[:, 0].transpose(1, 2)]
    rotate(
        *(pages, pages),
        rotary_dim=rotary_dim,
        layout=layout,
        inv_freq=inv_freq_of(rotary_dim).to(device),
        index=delta.to(device),
        slots=slots.to(device),
        trailing=trailing,
    )
    keys = before[:, 0].transpose(1, 2).reshape(20, 3, 8)
    options = {"rotary_dim": rotary_dim, "trailing": trailing}
    (expected,) = rotate_by_position([keys[slots]], delta, layout, **options)
    keys[slots] = expected
    assert torch.equal(pool[:, 0].transpose(1, 2).reshape(20, 3, 8), keys)
    assert torch.equal(pool[:, 1], before[:, 1])


def test_shifted_keys_are_keys_rotated_to_the_new_position(layout, device):
    keys = qk(4, [2], 8, device)
    positions, delta = torch.tensor([0, 5, 9, 40]), torch.tensor([3, -5, 2**20, 0])
    (moved,) = rotate_by_position(rotate_by_position(keys, positions, layout), delta, layout)
    assert off(moved.cpu(), expected_rotation(keys[0], positions + delta, 8, layout)) <= 2e-7


@pytest.mark.skipif(not INTERPRETED, reason="a GPU reads whatever is there")
def test_a_read_beyond_a_tensor_fails_the_test(layout, device):
    with pytest.raises(KernelFailed, match="out of bounds"):
        rotate_by_table(qk(2, [1], 8, device), torch.arange(2), layout, rows=torch.tensor([0, 2]))
