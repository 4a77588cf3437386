"""Rotation in one launch: its laws, the float64 reference, and what it promises about memory."""

import itertools
import math

import pytest
import torch
from triton.runtime.errors import InterpreterError

from rope_core import RopeConfig, reference
from rope_core.kernels import INTERPRETED
from rope_core.kernels.rotary import rotate, rotate_at, shift_pages
from tests.core.oracle import DTYPES, LAYOUTS, ROTATE_BAR, off, randn

FAR = [2**31 - 1, 2**31, -(2**31) - 5, 2**40 + 3, 2**53 - 111, -(2**62) - 12_345]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def steps(rotary_dim, theta=10_000.0):
    """Return inv_freq `[rotary_dim / 2]`."""
    return reference.frequencies(RopeConfig.of(rotary_dim, theta=theta))


def table(positions, inv_freq):
    angles = positions.double()[:, None] * inv_freq
    return angles.cos().float(), angles.sin().float()


def turned(x, positions, rotary_dim, layout, *, trailing=False):
    """Return what the reference answers, float64, for x on any device."""
    rope = RopeConfig.of(rotary_dim, layout=layout)
    start = x.shape[-1] - rotary_dim if trailing else 0
    y = x.double().cpu().clone()
    part = slice(start, start + rotary_dim)
    y[..., part] = reference.rotate_complex(y[..., part], positions.double(), rope)
    return y


def empty_like(x):
    return torch.full(x.shape, math.nan, dtype=x.dtype, device=x.device)


def at(xs, positions, layout, *, rotary_dim=None, outs=None, **how):
    """Rotate by positions into `outs`, or into new tensors that held NaN."""
    outs = [empty_like(x) for x in xs] if outs is None else outs
    rotary_dim = rotary_dim or xs[0].shape[-1]
    where = xs[0].device
    inv_freq = steps(rotary_dim).to(where)
    rotate_at(
        *(xs, outs, positions.to(where), inv_freq), rotary_dim=rotary_dim, layout=layout, **how
    )
    return outs


def by_table(xs, positions, layout, *, rotary_dim=None, outs=None, rows=None, **how):
    """Rotate by the rows of a table of all `positions`."""
    outs = [empty_like(x) for x in xs] if outs is None else outs
    rotary_dim = rotary_dim or xs[0].shape[-1]
    where = xs[0].device
    cos, sin = (t.to(where) for t in table(positions, steps(rotary_dim)))
    rows = None if rows is None else rows.to(where)
    rotate(xs, outs, cos, sin, rotary_dim=rotary_dim, layout=layout, rows=rows, **how)
    return outs


def qk(tokens, heads, width, device, dtype=torch.float32):
    return [
        randn(tokens, h, width, dtype=dtype, seed=seed).to(device) for seed, h in enumerate(heads)
    ]


def test_the_norm_of_every_pair_is_kept(layout, device):
    (x,) = qk(6, [3], 10, device)
    (y,) = at([x], torch.tensor([0, 1, -7, 300, 2**40, 5]), layout)
    for before, after in zip(pairs(x, layout), pairs(y, layout), strict=True):
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), rtol=3e-7, atol=0)


def pairs(x, layout):
    groups = x.unflatten(-1, (-1, 2)) if layout == "interleaved" else x.unflatten(-1, (2, -1)).mT
    return groups.unbind(-2)


def test_the_inverse_undoes(layout, device):
    xs, positions = qk(5, [3, 1], 14, device), torch.tensor([0, 9, -300, 2**35, 70_000])
    for turn in (at, by_table):
        back = turn(turn(xs, positions, layout), positions, layout, inverse=True)
        assert all(off(b, x) <= 2e-7 for b, x in zip(back, xs, strict=True))


def test_turns_add_up(layout, device):
    (x,) = qk(4, [2], 8, device)
    m, n = torch.tensor([1, 70, -5, 2**20]), torch.tensor([4, -70, 2**20, 2**21])
    (twice,) = at(at([x], m, layout), n, layout)
    (once,) = at([x], m + n, layout)
    assert off(twice, once) <= 2e-7


def test_scores_depend_on_the_distance_alone(layout, device):
    positions = torch.tensor([12, 5])
    q, k = (x.expand(2, 1, 16).contiguous() for x in qk(1, [1, 1], 16, device))
    scores = []
    for shift in (0, 1, 10_000, 2**30):
        a, b = at([q, k], positions + shift, layout)
        scores.append((a[0] @ b[1].T).item())
    assert scores == pytest.approx([scores[0]] * 4, abs=3e-6)


@pytest.mark.parametrize("where", [{}, {"trailing": True}], ids=["leading", "trailing"])
def test_in_place_is_out_of_place_bit_for_bit(layout, dtype, where, device):
    positions = torch.tensor([3, 0, -9, 2**33, 8])
    for turn, rotary_dim in itertools.product((at, by_table), (12, 6)):
        xs = qk(5, [3, 2], 12, device, dtype)
        apart = turn(xs, positions, layout, rotary_dim=rotary_dim, **where)
        turn(xs, positions, layout, rotary_dim=rotary_dim, outs=xs, **where)
        assert all(torch.equal(x, y) for x, y in zip(xs, apart, strict=True))


def test_neighbours_do_not_matter_by_a_bit(layout, device):
    xs, positions = qk(5, [4, 2], 6, device), torch.tensor([3, 0, -9, 2**33, 8])
    for turn in (at, by_table):
        together = turn(xs, positions, layout)
        alone = [turn([x[i : i + 1] for x in xs], positions[i : i + 1], layout) for i in range(5)]
        only_k = turn(xs[1:], positions, layout)
        for j in range(2):
            assert torch.equal(together[j], torch.cat([some[j] for some in alone]))
        assert torch.equal(together[1], only_k[0])


# head_dim, rotary_dim: the least, not powers of two, odd rests, wide
WIDTHS = [(2, 2), (12, 12), (7, 4), (40, 26), (80, 80), (33, 32), (576, 64), (512, 512)]


@pytest.mark.parametrize(("head_dim", "rotary_dim"), WIDTHS)
def test_is_as_near_the_reference_as_its_dtype_allows(head_dim, rotary_dim, layout, dtype, device):
    positions = torch.tensor([131_071, 0, -2, 131_071, 255])
    trailing = head_dim % 2 == 0
    bar = ROTATE_BAR[dtype] * (1.3 if head_dim == 2 else 1)  # few elements
    how = {"rotary_dim": rotary_dim, "trailing": trailing}
    for turn, sign in itertools.product((at, by_table), (1, -1)):
        xs = qk(5, [5, 1] if head_dim < 512 else [2, 1], head_dim, device, dtype)
        for x, y in zip(xs, turn(xs, positions, layout, inverse=sign < 0, **how), strict=True):
            expected = turned(x, sign * positions, rotary_dim, layout, trailing=trailing)
            assert off(y.cpu(), expected) <= bar
            kept = slice(head_dim - rotary_dim) if trailing else slice(rotary_dim, None)
            assert torch.equal(y[..., kept], x[..., kept]), "the rest passes through"


def test_positions_that_32_bits_cannot_hold(layout, dtype, device):
    positions = torch.tensor(FAR)
    xs = qk(len(FAR), [9, 3], 32, device, dtype)
    for x, y in zip(xs, at(xs, positions, layout), strict=True):
        assert off(y.cpu(), turned(x, positions, 32, layout)) <= ROTATE_BAR[dtype]


def test_cosines_and_sines_of_any_angle_are_within_a_rounding(device):
    near = torch.arange(-40, 40).double() * math.pi / 4  # about the borders of the quadrants
    near = torch.cat((near, near.nextafter(near + 1), near.nextafter(near - 1)))
    spread = torch.cat([randn(400, seed=n).double() * 10.0**n for n in range(-3, 19)])
    positions = torch.cat((near, spread))
    x = torch.tensor([1.0, 0.0]).expand(len(positions), 1, 2).to(device)
    y = empty_like(x)
    one = torch.ones(1, dtype=torch.float64, device=device)
    rotate_at([x], [y], positions.to(device), one, rotary_dim=2, layout="half")
    cos, sin = y.cpu().double().squeeze(1).unbind(-1)
    assert (cos - positions.cos()).abs().max() <= 1e-7
    assert (sin - positions.sin()).abs().max() <= 1e-7


def test_positions_of_every_kind(layout, device):
    (x,) = qk(4, [3], 8, device)
    fractional = torch.tensor([0.5, -3.75, 1e5 + 0.125, 7.0])
    strided = torch.tensor([[5, 0], [9, 1], [-2, 2], [5, 3]])[:, 0]
    one_for_all = torch.tensor(1_234).expand(4)
    for positions in (fractional, fractional.double(), strided, strided.int(), one_for_all):
        (y,) = at([x], positions, layout)
        assert off(y.cpu(), turned(x, positions, 8, layout)) <= 1e-7


def test_rows_of_a_table_are_gathered(layout, dtype, device):
    xs, rows = qk(5, [3, 1], 12, device, dtype), torch.tensor([9, 0, 9, 3, 1])
    for x, y in zip(xs, by_table(xs, torch.arange(10), layout, rows=rows), strict=True):
        assert off(y.cpu(), turned(x, rows, 12, layout)) <= ROTATE_BAR[dtype]


def test_the_gain_is_what_the_answer_is_multiplied_by(layout, device):
    (x,) = qk(3, [2], 8, device)
    positions = torch.tensor([1, 20, -3])
    (y,) = at([x], positions, layout, gain=1.25)
    assert off(y.cpu(), 1.25 * turned(x, positions, 8, layout)) <= 1e-7


def uneven(tokens, heads, width, dtype, device):
    """Return memory that holds NaN, and a view `[tokens, heads, width]` of it, of every kind."""

    def held(*shape):
        return torch.full(shape, math.nan, dtype=dtype, device=device)

    packed = held(tokens, 3, heads, width)
    yield packed, packed[:, 1]
    padded = held(tokens, heads, width + 3)
    yield padded, padded[..., 2:-1]
    by_head = held(heads, tokens, width)
    yield by_head, by_head.transpose(0, 1)
    sparse = held(2 * tokens, 2 * heads, 2 * width)
    yield sparse, sparse[::2, ::2, :width]
    odd = held(tokens * heads * width + 1)
    yield odd, odd[1:].view(tokens, heads, width)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(8, 8), (7, 4)])
def test_strides_do_not_matter_and_nothing_beside_is_written(
    head_dim, rotary_dim, layout, dtype, device
):
    positions = torch.tensor([4, 0, -2])
    (x,) = qk(3, [2], head_dim, device, dtype)
    (expected,) = at([x], positions, layout, rotary_dim=rotary_dim)
    for (_, given), (memory, out) in zip(
        uneven(3, 2, head_dim, dtype, device), uneven(3, 2, head_dim, dtype, device), strict=True
    ):
        given.copy_(x)
        at([given], positions, layout, rotary_dim=rotary_dim, outs=[out])
        assert torch.equal(out, expected)
        assert torch.equal(given, x), "an input is never written to"
        out.fill_(math.nan)
        assert memory.isnan().all(), "nor anything beside the answer"
        at([given], positions, layout, rotary_dim=rotary_dim, outs=[given])
        assert torch.equal(given, expected)


def test_tokens_that_lie_further_apart_than_32_bits_tell(layout, device):
    (x,) = qk(3, [2], 8, device, torch.float16)
    far = torch.empty(2 * (2**30 + 16) + 16, dtype=torch.float16, device=device)
    spread = far.as_strided((3, 2, 8), (2**30 + 16, 8, 1))
    spread.copy_(x)
    positions = torch.tensor([4, 0, -2])
    at([spread], positions, layout, outs=[spread])
    assert torch.equal(spread, at([x], positions, layout)[0])


def test_heads_that_are_one_in_memory(layout, device):
    (x,) = qk(3, [1], 8, device)
    positions = torch.tensor([4, 0, -2])
    (y,) = at([x.expand(3, 5, 8)], positions, layout)
    assert torch.equal(y, at([x], positions, layout)[0].expand(3, 5, 8))


def test_nothing_is_rotated_to_nothing(layout, device):
    for tokens, heads in ((0, [2, 1]), (3, [0]), (0, [0, 0])):
        xs, positions = qk(tokens, heads, 8, device), torch.arange(tokens)
        assert [y.shape for y in at(xs, positions, layout)] == [x.shape for x in xs]
    q, k = at(qk(3, [0, 2], 8, device), torch.arange(3), layout)
    assert not k.isnan().any()
    q, k = at(qk(3, [2, 0], 8, device), torch.arange(3), layout)
    assert not q.isnan().any()


@pytest.mark.parametrize(("trailing", "rotary_dim"), [(False, 8), (False, 4), (True, 6)])
def test_keys_in_pages_move_where_they_are(trailing, rotary_dim, layout, dtype, device):
    pool = randn(5, 2, 3, 4, 8, dtype=dtype).to(device)  # pages, k and v, Hkv, page_size, D
    before = pool.clone()
    block_table, seqlens = [[3, 0], [4, 2]], [6, 3]
    delta, slots = [], []
    for pages, length, moved in zip(block_table, seqlens, (-2, 2**33), strict=True):
        slots += [pages[t // 4] * 4 + t % 4 for t in range(length)]
        delta += [moved] * length
    slots, delta = torch.tensor(slots), torch.tensor(delta)
    shift_pages(
        *(pool[:, 0], slots.to(device), delta.to(device), steps(rotary_dim).to(device)),
        rotary_dim=rotary_dim,
        layout=layout,
        trailing=trailing,
    )
    keys = before[:, 0].transpose(1, 2).reshape(20, 3, 8)
    how = {"rotary_dim": rotary_dim, "trailing": trailing}
    (expected,) = at([keys[slots]], delta, layout, **how)
    keys[slots] = expected
    assert torch.equal(pool[:, 0].transpose(1, 2).reshape(20, 3, 8), keys)
    assert torch.equal(pool[:, 1], before[:, 1])


def test_moved_keys_are_keys_rotated_elsewhere(layout, device):
    keys = qk(4, [2], 8, device)
    positions, delta = torch.tensor([0, 5, 9, 40]), torch.tensor([3, -5, 2**20, 0])
    (moved,) = at(at(keys, positions, layout), delta, layout)
    assert off(moved.cpu(), turned(keys[0], positions + delta, 8, layout)) <= 2e-7


@pytest.mark.skipif(not INTERPRETED, reason="a GPU would read what is there")
def test_a_tensor_that_is_read_beyond_its_end_is_noticed(layout, device):
    with pytest.raises(InterpreterError, match="out of bounds"):
        by_table(qk(2, [1], 8, device), torch.arange(2), layout, rows=torch.tensor([0, 2]))
