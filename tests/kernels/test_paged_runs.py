"""Plans of a cache run by the kernels, against formulas in float64."""

import pytest
import torch

from rope_core import RopeConfig
from rope_core.kvcache.run import LayerInput, run_layers
from tests.core.kvcache_run.build import Row, append, attend_plan, group_of, layer_plan, pages_of
from tests.core.kvcache_run.test_attend import BAR, by_index, expected, off, randn, rotated

ROPE = RopeConfig.of(16, theta=1e4)
SINKS = (0.5, -1.0, 2.0, -torch.inf)
CASES = {
    "causal": {},
    "all seen": {"causal": False},
    "a window": {"window": 9},
    "chunks": {"chunk": 7},
    "a soft-cap": {"softcap": 0.5, "scale": 1.0},
}


def segmented(group, dtype, lengths, shifts, *, page_tokens=16, seed=0):
    """Return a row of segments, appended by the kernels, with its k, v and positions now."""
    row = Row(pages_of(group, dtype, page_tokens, num_groups=96, seed=seed), group, dtype)
    ks, vs, now, base = [], [], [], 0
    for i, (n, shift) in enumerate(zip(lengths, shifts, strict=True)):
        row.open_segment(shift=(shift,), first_slot=5 * i % page_tokens)
        k, v = (randn(n, 2, 16, seed=10 * i + j, dtype=dtype) for j in (1, 2))
        positions = torch.arange(base, base + n)
        append(row, k, v, positions, backend="fused")
        ks.append(k)
        vs.append(v)
        now.append(positions + shift)
        base += n
    return row, torch.cat(ks), torch.cat(vs), torch.cat(now)


def check(row, q, q_positions, q_index, k, v, positions, visible, plan, sinks=None, **fields):
    dtype = q.dtype
    call = LayerInput(layer_plan(row.group, row.pages, [plan], dtype=dtype), q, return_lse=True)
    (answer,) = run_layers([call], "fused")
    truth = expected(
        rotated(q, q_positions, ROPE),
        rotated(k, positions, ROPE),
        v,
        visible,
        sinks=sinks,
        **fields,
    )
    assert answer.backend == "fused"
    assert off(answer.out, truth[0]) <= BAR[dtype]
    assert (answer.lse - truth[1]).abs().max() <= 10 * BAR[dtype]


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize("num_queries", [1, 3, 40])
@pytest.mark.parametrize("lengths", [(45,), (3, 30, 20)])
def test_segments_of_a_row(fields, num_queries, lengths):
    sinks = SINKS if num_queries > 1 else None
    group = group_of(ROPE, sinks=sinks and (sinks,), **fields)
    row, k, v, positions = segmented(group, torch.float32, lengths, (0, 300, -2)[: len(lengths)])
    q, index = randn(num_queries, 4, 16, seed=99), torch.arange(len(k))
    q_positions = torch.arange(500, 500 + num_queries)
    plan = attend_plan(row, num_queries, q_positions)
    masks = {name: fields.get(name) for name in ("window", "chunk")}
    visible = by_index(index[-num_queries:], index, fields.get("causal", True), **masks)
    scores = {name: fields.get(name) for name in ("softcap", "scale")}
    check(row, q, q_positions, index, k, v, positions, visible, plan, sinks, **scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_many_splits(dtype):
    group = group_of(ROPE)
    row, k, v, positions = segmented(group, dtype, (3, 700), (0, 50))
    q, index = randn(1, 4, 16, seed=99, dtype=dtype), torch.arange(len(k))
    q_positions = torch.tensor([800])
    visible = by_index(index[-1:], index)
    plan = attend_plan(row, 1, q_positions)
    check(row, q, q_positions, index, k, v, positions, visible, plan)


@pytest.mark.parametrize("with_mask", [False, True])
def test_a_tail_mask_and_an_index_in_any_order(with_mask):
    group = group_of(ROPE, window=30)
    row, k, v, positions = segmented(group, torch.float32, (30, 20), (0, 7))
    q, mask = randn(4, 4, 16, seed=2), randn(4, 11, seed=3) > 0
    q_index, index = torch.tensor([49, 3, 44, 42]), torch.arange(50)
    plan = attend_plan(row, 4, q_index + 5, q_index, mask if with_mask else None)
    visible = by_index(q_index, index, window=30)
    if with_mask:
        visible[:, 39:] &= mask
    check(row, q, q_index + 5, q_index, k, v, positions, visible, plan)


def test_the_other_rows_change_no_bit():
    group = group_of(ROPE, sinks=(SINKS,))
    calls, pages = [], None
    for i, lengths in enumerate([(9,), (3, 30, 20), (5, 6), (40,)]):
        row = Row(pages or pages_of(group, torch.bfloat16, 16), group, torch.bfloat16)
        pages = row.pages
        for j, n in enumerate(lengths):
            row.open_segment(shift=(7 * j,))
            k, v = (randn(n, 2, 16, seed=10 * i + m, dtype=torch.bfloat16) for m in (1, 2))
            append(row, k, v, torch.arange(n))
        q = randn(3, 4, 16, seed=50 + i, dtype=torch.bfloat16)
        rows = [attend_plan(row, 3, torch.arange(60, 63))]
        plan = layer_plan(group, pages, rows, dtype=torch.bfloat16)
        calls.append(LayerInput(plan, q))
    together = run_layers(calls, "fused")
    for call, answer in zip(calls, together, strict=True):
        assert torch.equal(run_layers([call], "fused")[0].out, answer.out)


ROPES = {
    "interleaved": RopeConfig.of(16, layout="interleaved"),
    "DeepSeek's": RopeConfig.of(16, layout="interleaved_to_half"),
    "xpos": RopeConfig.of(16, rope_type="xpos", length=100),
    "three axes": RopeConfig.of(16, axes="mrope", mrope_section=(2, 3, 3)),
    "none": None,
}


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_kernels_answer_as_the_cpu_does(rope):
    group = group_of(rope)
    answers = []
    for backend in ("fused", None):
        row = Row(pages_of(group, torch.float32, 16), group, torch.float32)
        positions = torch.arange(40)
        if rope is not None and rope.num_axes > 1:
            positions = torch.stack((positions, positions // 3, positions % 7))
        row.open_segment(shift=(0,) * positions.ndim if positions.ndim == 1 else (5, 0, 2))
        append(row, randn(40, 2, 16), randn(40, 2, 16, seed=1), positions, backend=backend)
        plan = attend_plan(row, 2, positions[..., -2:] + 3)
        call = LayerInput(layer_plan(group, row.pages, [plan]), randn(2, 4, 16, seed=2))
        answers += run_layers([call], backend)
    assert off(answers[0].out, answers[1].out.double()) <= 3e-6
