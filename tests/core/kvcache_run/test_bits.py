"""The bits of what is stored, and of answers."""

import random

import pytest
import torch

from rope_core import Attend, RopeConfig, Rotate, attend, rotate
from rope_core.kvcache import run
from rope_core.kvcache.compute.decode import decode
from rope_core.kvcache.plan import PageCopy
from rope_core.kvcache.run import LayerInput, run_layers
from tests.core.kvcache_run.build import Row, append, attend_plan, group_of, layer_plan, pages_of
from tests.core.kvcache_run.test_attend import every_dtype, off, randn

ROPES = {
    "half": RopeConfig.of(32, theta=1e4),
    "interleaved": RopeConfig.of(32, theta=5e5, layout="interleaved"),
    "a part": RopeConfig.of(32, rotary_dim=16),
    "the last part": RopeConfig.of(32, rotary_dim=16, trailing=True, layout="interleaved"),
    "DeepSeek's": RopeConfig.of(32, layout="interleaved_to_half"),
    "yarn": RopeConfig.of(32, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    "xpos": RopeConfig.of(32, rope_type="xpos", length=200),
    "as transformers": RopeConfig.of(32, arithmetic="hf", rounding="tables"),
    "three axes": RopeConfig.of(32, axes="mrope", mrope_section=(4, 6, 6)),
    "blocks": RopeConfig.of(32, blocks=2),
    "none": None,
}
every_rope = pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)


def positions_of(rope, count, start=0):
    positions = torch.arange(start, start + count)
    if rope is None or rope.num_axes == 1:
        return positions
    return torch.stack((positions, positions // 3, positions % 7))


def filled(rope, dtype, cuts, *, page_tokens=8, seed=0, **fields):
    """Return a row of `sum(cuts)` tokens that were appended so many at a time."""
    group = group_of(rope, head_dim=32, **fields)
    pages = pages_of(group, dtype, page_tokens, num_groups=1024 // page_tokens, seed=seed)
    row, count = Row(pages, group, dtype), sum(cuts)
    k, v = randn(count, 2, 32, dtype=dtype), randn(count, 2, 32, seed=1, dtype=dtype)
    positions, start = positions_of(rope, count), 0
    row.open_segment(shift=(0,) * (1 if rope is None else rope.num_axes))
    for cut in cuts:
        part = slice(start, start + cut)
        append(row, k[part], v[part], positions[..., part])
        start += cut
    return row, k, v


def stored(row, tensor):
    """Return what a row has stored, `[n, Hkv, D]`."""
    (segment,) = row.segments
    pages = torch.cat([tensor[page].transpose(0, 1) for page in segment.page_groups])
    return pages[segment.first_slot : segment.first_slot + segment.num_keys]


@every_rope
@every_dtype
def test_what_is_stored_does_not_depend_on_how_it_was_sent(rope, dtype):
    whole, k, v = filled(rope, dtype, [100])
    for cuts in ([1] * 100, [7, 1, 50, 42], [64, 36]):
        other, *_ = filled(rope, dtype, cuts, seed=2)
        assert torch.equal(stored(whole, whole.pages.keys), stored(other, other.pages.keys))
        assert torch.equal(stored(other, other.pages.values), v)
    if rope is None:
        assert torch.equal(stored(whole, whole.pages.keys), k)
    elif rope.rope_type != "xpos":
        rotated = rotate(
            Rotate(
                None,
                k[None],
                rope,
                positions_of(rope, 100)[..., None, :]
                if rope.num_axes > 1
                else positions_of(rope, 100),
            )
        )
        assert torch.equal(stored(whole, whole.pages.keys), rotated.k[0])


@every_rope
@every_dtype
@pytest.mark.parametrize("num_queries", [1, 5])
def test_an_answer_is_that_of_attention_without_pages(rope, dtype, num_queries):
    row, k, v = filled(rope, dtype, [100])
    q = randn(num_queries, 4, 32, seed=2, dtype=dtype)
    positions = positions_of(rope, 100)
    at = positions[..., -num_queries:]
    plan = attend_plan(row, num_queries, None if rope is None else at)
    (answer,) = run_layers([LayerInput(layer_plan(row.group, row.pages, [plan], dtype=dtype), q)])
    alone = attend(
        Attend(q, k, v, rope, q_positions=at, k_positions=positions)
        if rope is not None
        else Attend(q, k, v, None)
    )
    bar = {torch.float32: 1e-6, torch.float16: 8e-4, torch.bfloat16: 8e-3}  # of two answers
    assert off(answer.out, alone.out.double()) <= bar[dtype]


@every_rope
def test_a_shift_moves_the_queries(rope):
    """Keys at base positions, shifted, answer as keys at the moved positions do."""
    if rope is None:
        return
    row, k, v = filled(rope, torch.float32, [100])
    shift = (300,) * rope.num_axes if rope.num_axes == 1 else (300, 20, 5)
    row.segments[0].shift = shift
    q, at = randn(2, 4, 32, seed=2), positions_of(rope, 2, 500)
    plan = attend_plan(row, 2, at)
    (answer,) = run_layers([LayerInput(layer_plan(row.group, row.pages, [plan]), q)])
    moved = positions_of(rope, 100) + (300 if rope.num_axes == 1 else torch.tensor(shift)[:, None])
    alone = attend(Attend(q, k, v, rope, q_positions=at, k_positions=moved))
    assert off(answer.out, alone.out.double()) <= 3e-6


@every_dtype
@pytest.mark.parametrize("num_queries", [1, 3, 40])
def test_the_places_of_pages_change_no_bit(dtype, num_queries):
    answers = []
    q = randn(num_queries, 4, 32, seed=2, dtype=dtype)
    for page_tokens, seed in ((8, 0), (8, 1), (64, 0), (16, 5)):
        row, *_ = filled(
            ROPES["half"], dtype, [700], page_tokens=page_tokens, seed=seed, window=650
        )
        plan = attend_plan(row, num_queries, torch.arange(700 - num_queries, 700))
        call = LayerInput(layer_plan(row.group, row.pages, [plan], dtype=dtype), q, return_lse=True)
        answers += run_layers([call])
    for answer in answers[1:]:
        assert torch.equal(answer.out, answers[0].out)
        assert torch.equal(answer.lse, answers[0].lse)


@every_dtype
def test_the_other_calls_of_a_run_change_no_bit(dtype):
    group = group_of(ROPES["half"], head_dim=32)
    pages = pages_of(group, dtype, 8, num_groups=256)
    calls, plans, numbers = [], [], random.Random(0)
    for i in range(12):
        row, count = Row(pages, group, dtype), numbers.choice((1, 9, 40, 130))
        row.open_segment(first_slot=i % 8)
        append(
            row,
            randn(count, 2, 32, seed=i, dtype=dtype),
            randn(count, 2, 32, seed=50 + i, dtype=dtype),
            torch.arange(count),
        )
        num_queries = min(count, numbers.choice((1, 1, 4, 40)))
        plan = attend_plan(row, num_queries, torch.arange(count - num_queries, count))
        plans.append(plan)
        q = randn(num_queries, 4, 32, seed=100 + i, dtype=dtype)
        calls.append(LayerInput(layer_plan(group, pages, [plan], dtype=dtype), q))
    together = run_layers(calls)

    for call, answer in zip(calls, together, strict=True):
        assert torch.equal(run_layers([call])[0].out, answer.out)

    packed = LayerInput(
        layer_plan(group, pages, plans, dtype=dtype), torch.cat([call.q for call in calls])
    )
    (answer,) = run_layers([packed])
    assert torch.equal(answer.out, torch.cat([each.out for each in together]))


def test_a_step_is_an_append_and_an_attend():
    group = group_of(ROPES["half"], head_dim=32)
    answers = []
    for as_step in (False, True):
        row = Row(pages_of(group, torch.float32, 8), group, torch.float32)
        row.open_segment()
        append(row, randn(20, 2, 32), randn(20, 2, 32, seed=1), torch.arange(20))
        q, k, v = randn(3, 4, 32, seed=2), randn(3, 2, 32, seed=3), randn(3, 2, 32, seed=4)
        positions = torch.arange(20, 23)
        if not as_step:
            append(row, k, v, positions)
            plan, k, v = attend_plan(row, 3, positions), None, None
        else:
            slots = row.take_slots(3)
            plan = row.plan(
                slots=slots,
                base=positions,
                num_queries=3,
                q_positions=positions,
                q_index=range(20, 23),
            )
        answers += run_layers([LayerInput(layer_plan(group, row.pages, [plan]), q, k, v)])
    assert torch.equal(answers[0].out, answers[1].out)


@every_rope
@every_dtype
def test_a_decode_step_has_the_bits_of_the_general_way(rope, dtype, monkeypatch):
    """`decode` alone runs a step of one token; with a second call beside it, it does not."""
    runs = []
    monkeypatch.setattr(run, "decode", lambda *call: runs.append(decode(*call)) or runs[-1])
    for fields in ({}, {"window": 5, "softcap": 20.0, "layers": 2}):
        for page_tokens, num_keys in ((4, 11), (64, 70)):
            group = group_of(rope, head_dim=32, **fields)
            answers, memories = [], []
            for number in (1, 2):
                pages = pages_of(group, dtype, page_tokens)
                row, layer = Row(pages, group, dtype), group.layers[-1]
                row.open_segment()
                k, v = (randn(num_keys, 2, 32, seed=seed, dtype=dtype) for seed in (0, 1))
                append(row, k, v, positions_of(rope, num_keys), layer=layer)
                position = positions_of(rope, 1, num_keys)
                plan = row.plan(
                    slots=row.take_slots(1),
                    base=position,
                    num_queries=1,
                    q_positions=position,
                    q_index=range(num_keys, num_keys + 1),
                )
                q, k, v = (randn(1, h, 32, seed=h, dtype=dtype) for h in (4, 2, 2))
                call = LayerInput(
                    layer_plan(group, pages, [plan], layer, dtype), q, k, v, return_lse=True
                )
                other = LayerInput(layer_plan(group, pages, [row.plan()], layer, dtype))
                answers.append(run_layers([call, other][:number])[0])
                memories.append(pages.pages.clone())
            assert torch.equal(answers[0].out, answers[1].out)
            assert torch.equal(answers[0].lse, answers[1].lse)
            assert torch.equal(*memories)
    assert len(runs) == 4


def test_a_page_is_copied_before_anything_is_written():
    group = group_of(ROPES["half"], head_dim=32, layers=2)
    row = Row(pages_of(group, torch.float32, 8), group, torch.float32)
    row.open_segment()
    for layer in range(2):
        row.segments[0].num_keys, row.length = 0, 0
        append(row, randn(5, 2, 32, seed=layer), randn(5, 2, 32, seed=9), torch.arange(5), layer)
    source, target = row.segments[0].page_groups[0], row.pages.free.pop()
    before = row.pages.keys[source : source + 2].clone()
    row.segments[0].page_groups[0] = target
    slots = row.take_slots(1)
    plan = layer_plan(group, row.pages, [row.plan(slots=slots, base=torch.tensor([5]))], 1)
    plan.copies = [PageCopy(row.pages, source, target)]
    run_layers([LayerInput(plan, None, randn(1, 2, 32), randn(1, 2, 32))])
    old, new = row.pages.keys[source : source + 2], row.pages.keys[target : target + 2]
    assert torch.equal(old.nan_to_num(7), before.nan_to_num(7))
    assert torch.equal(new[:, :, :5], before[:, :, :5])
    assert new[1, :, 5].isfinite().all()
    assert new[0, :, 5].isnan().all()


def test_threads_change_no_bit():
    group = group_of(ROPES["half"], heads=16, kv_heads=4, head_dim=32)
    row = Row(pages_of(group, torch.float32, 64, num_groups=130), group, torch.float32)
    row.open_segment()
    append(row, randn(8_200, 4, 32), randn(8_200, 4, 32, seed=1), torch.arange(8_200))
    plan = attend_plan(row, 8, torch.arange(8_192, 8_200))
    call = LayerInput(layer_plan(group, row.pages, [plan]), randn(8, 16, 32, seed=2))
    num_threads, answers = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            answers += run_layers([call])
    finally:
        torch.set_num_threads(num_threads)
    if answers[0].backend == "compiled":
        assert torch.equal(answers[0].out, answers[1].out)
    assert off(answers[0].out, answers[1].out.double()) <= 1e-6
