"""Attention to pages against formulas in float64."""

import math

import pytest
import torch

from rope_core import RopeConfig, ShapeError
from rope_core.kvcache.run import LayerInput, run_layers
from tests.core.kvcache_run.build import Row, append, attend_plan, group_of, layer_plan, pages_of

DTYPES = torch.float32, torch.float16, torch.bfloat16
BAR = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 6e-3,
}  # q and k are rounded once they are rotated
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rotated(x, positions, rope):
    """Return x `[n, H, D]` in float64, rotated in pairs (i, i + D / 2)."""
    half = rope.rotary_dim // 2
    inv_freq = rope.theta ** (-torch.arange(half).double() / half)
    angle = positions.double()[:, None, None] * inv_freq
    a, b, rest = x.double().tensor_split((half, 2 * half), -1)
    return torch.cat(
        (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest), -1
    )


def expected(q, k, v, visible, *, softcap=None, scale=None, sinks=None):
    """Attend from rotated q `[n, H, D]` to k `[m, Hkv, D]` in float64; visible `[n, m]`."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(repeats, 1) for x in (k, v))
    scores = torch.einsum("nhd,mhd->nhm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~visible[:, None], -math.inf)
    if sinks is not None:
        column = torch.tensor(sinks).double()[None, :, None].expand(len(q), -1, 1)
        scores = torch.cat((scores, column), -1)
        v = torch.cat((v, v.new_zeros(1, *v.shape[1:])))
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -math.inf, 0)[..., None]).exp()
    return torch.einsum("nhm,mhd->nhd", weights, v), lse


def by_index(q_index, k_index, causal=True, window=None, chunk=None):
    distance = q_index[:, None] - k_index
    visible = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        visible &= distance >= 0
    if window:
        visible &= (distance < window) & (distance >= 0)
    if chunk:
        visible &= q_index[:, None] // chunk == k_index // chunk
    return visible


def off(answer, truth):
    return ((answer.double() - truth).norm() / truth.norm().clamp_min(1e-300)).item()


def check(call, truth, dtype):
    (answer,) = run_layers([call])
    assert off(answer.out, truth[0]) <= BAR[dtype]
    assert torch.equal(answer.lse == -math.inf, truth[1] == -math.inf)
    seen = truth[1] > -math.inf
    assert (answer.lse[seen] - truth[1][seen]).abs().max() <= 10 * BAR[dtype]
    return answer


ROPE = RopeConfig.of(16, theta=1e4)
CASES = {
    "causal": {},
    "all seen": {"causal": False},
    "a window": {"window": 9},
    "chunks": {"chunk": 7},
    "a window and chunks": {"window": 5, "chunk": 24},
    "a soft-cap": {"softcap": 0.5, "scale": 1.0},
    "a negative scale": {"scale": -0.3},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize("num_queries", [1, 3, 40])
@every_dtype
def test_every_mask(fields, num_queries, dtype):
    num_keys, sinks = 45, (0.5, -1.0, 2.0, -math.inf)
    group = group_of(ROPE, sinks=(sinks,), **fields)
    row = Row(pages_of(group, dtype), group, dtype)
    k, v = randn(num_keys, 2, 16, dtype=dtype), randn(num_keys, 2, 16, seed=1, dtype=dtype)
    q, positions = randn(num_queries, 4, 16, seed=2, dtype=dtype), torch.arange(num_keys) + 100
    row.open_segment()
    append(row, k, v, positions)
    plan = attend_plan(row, num_queries, positions[-num_queries:])
    masks = {name: fields.get(name) for name in ("window", "chunk")}
    visible = by_index(
        positions[-num_queries:] - 100, positions - 100, fields.get("causal", True), **masks
    )
    truth = expected(
        rotated(q, positions[-num_queries:], ROPE), rotated(k, positions, ROPE), v, visible,
        softcap=fields.get("softcap"), scale=fields.get("scale"), sinks=sinks,
    )  # fmt: skip
    call = LayerInput(layer_plan(group, row.pages, [plan], dtype=dtype), q, return_lse=True)
    check(call, truth, dtype)


@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(16, 24), (24, 8), (20, 12), (128, 64), (6, 10)]
)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@every_dtype
def test_widths_and_groups(head_dim, value_dim, kv_heads, dtype):
    rope = RopeConfig.of(head_dim, theta=1e4)
    group = group_of(rope, heads=6, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim)
    row = Row(pages_of(group, dtype, 8), group, dtype)
    row.open_segment(first_slot=3)
    k, v = (
        randn(21, kv_heads, head_dim, dtype=dtype),
        randn(21, kv_heads, value_dim, seed=1, dtype=dtype),
    )
    q, positions = randn(2, 6, head_dim, seed=2, dtype=dtype), torch.arange(21)
    append(row, k, v, positions)
    plan = layer_plan(group, row.pages, [attend_plan(row, 2, positions[-2:])], dtype=dtype)
    visible = by_index(positions[-2:], positions)
    truth = expected(rotated(q, positions[-2:], rope), rotated(k, positions, rope), v, visible)
    check(LayerInput(plan, q, return_lse=True), truth, dtype)


@pytest.mark.parametrize("num_queries", [1, 5, 70])
@every_dtype
def test_segments_with_shifts_and_many_parts(num_queries, dtype):
    group = group_of(ROPE, causal=True, window=None)
    row = Row(pages_of(group, dtype, 64, num_groups=40), group, dtype)
    lengths, shifts, bases = (5, 700, 3, 530, 90), (0, -37, 400, 0, -37), (0, 44, 10, 300, 900)
    ks, vs, now = [], [], []
    for i, (n, shift, base) in enumerate(zip(lengths, shifts, bases, strict=True)):
        row.open_segment(shift=(shift,), first_slot=(7 * i) % 64)
        ks.append(randn(n, 2, 16, seed=10 + i, dtype=dtype))
        vs.append(randn(n, 2, 16, seed=20 + i, dtype=dtype))
        positions = torch.arange(base, base + n)
        append(row, ks[-1], vs[-1], positions)
        now.append(positions + shift)
    k, v, positions = torch.cat(ks), torch.cat(vs), torch.cat(now)
    q = randn(num_queries, 4, 16, seed=2, dtype=dtype)
    q_positions = torch.arange(2000, 2000 + num_queries)
    plan = attend_plan(row, num_queries, q_positions)
    index = torch.arange(len(k))
    visible = by_index(index[-num_queries:], index)
    truth = expected(rotated(q, q_positions, ROPE), rotated(k, positions, ROPE), v, visible)
    call = LayerInput(layer_plan(group, row.pages, [plan], dtype=dtype), q, return_lse=True)
    check(call, truth, dtype)


@pytest.mark.parametrize("num_queries", [1, 6])
def test_a_tail_mask_and_an_index_in_any_order(num_queries):
    group = group_of(ROPE, window=30)
    row = Row(pages_of(group, torch.float32), group, torch.float32)
    k, v, positions = randn(50, 2, 16), randn(50, 2, 16, seed=1), torch.arange(50)
    row.open_segment()
    append(row, k, v, positions)
    q, mask = randn(num_queries, 4, 16, seed=2), randn(num_queries, 11, seed=3) > 0
    q_index = torch.tensor([49, 3, 44, 42, 60, 0])[:num_queries]
    plan = attend_plan(row, num_queries, q_index + 5, q_index, mask)
    visible = by_index(q_index, positions, window=30)
    visible[:, 39:] &= mask
    truth = expected(rotated(q, q_index + 5, ROPE), rotated(k, positions, ROPE), v, visible)
    call = LayerInput(layer_plan(group, row.pages, [plan]), q, return_lse=True)
    answer = check(call, truth, torch.float32)
    assert answer.out.dtype == torch.float32


def test_a_query_that_sees_no_key():
    for sinks in (None, ((0.5, -1.0, 2.0, -math.inf),)):
        group = group_of(ROPE, sinks=sinks)
        row = Row(pages_of(group, torch.float32), group, torch.float32)
        row.open_segment(first_index=10)
        append(row, randn(5, 2, 16), randn(5, 2, 16), torch.arange(5))
        empty = Row(row.pages, group, torch.float32)
        plans = [
            attend_plan(row, 2, torch.tensor([1, 2]), [3, 12]),
            attend_plan(empty, 1, torch.tensor([0]), [0]),
        ]
        q = randn(3, 4, 16)
        (answer,) = run_layers(
            [LayerInput(layer_plan(group, row.pages, plans), q, return_lse=True)]
        )
        lse = torch.full((4,), -math.inf) if sinks is None else torch.tensor(sinks[0])
        for i in (0, 2):
            assert not answer.out[i].any()
            assert torch.equal(answer.lse[i], lse)
        assert answer.out[1].all()


def test_nan_that_is_hidden_stays_hidden_and_nan_that_is_seen_shows():
    group = group_of(ROPE)
    row = Row(pages_of(group, torch.float32), group, torch.float32)
    k, v, positions = randn(20, 2, 16), randn(20, 2, 16, seed=1), torch.arange(20)
    for poisoned in (k, v):
        poisoned[18] = math.nan
    row.open_segment()
    append(row, k, v, positions)
    for num_queries in (1, 4):
        q = randn(num_queries, 4, 16, seed=2)
        index = torch.arange(17 - num_queries + 1, 18)
        plan = layer_plan(group, row.pages, [attend_plan(row, num_queries, index, index)])
        (answer,) = run_layers([LayerInput(plan, q)])
        assert answer.out.isfinite().all()
        plan = layer_plan(group, row.pages, [attend_plan(row, num_queries, index + 1, index + 1)])
        (answer,) = run_layers([LayerInput(plan, q)])
        assert answer.out[:-1].isfinite().all()
        assert answer.out[-1].isnan().all()


def test_tensors_that_do_not_fit_their_plan():
    group = group_of(ROPE, value_dim=8)
    row = Row(pages_of(group, torch.float32), group, torch.float32)
    row.open_segment()
    part = row.plan(
        slots=row.take_slots(2),
        base=torch.arange(2),
        num_queries=2,
        q_positions=torch.arange(2),
        q_index=range(2),
    )
    plan = layer_plan(group, row.pages, [part])
    q, k, v = randn(2, 4, 16), randn(2, 2, 16), randn(2, 2, 8)
    wrong = [
        (q, k, v[:1]), (q, k[..., :8], v), (q[:1], k, v), (q, k, v.half()), (q, None, None),
        (q, k, None), (None, k, v), (q.double(), k, v),
    ]  # fmt: skip
    for tensors in wrong:
        with pytest.raises(ShapeError):
            run_layers([LayerInput(plan, *tensors)])
    assert row.pages.keys.isnan().all()
    assert run_layers([LayerInput(plan, q, k, v)])[0].out.isfinite().all()
