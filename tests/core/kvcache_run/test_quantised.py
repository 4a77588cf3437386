"""Keys and values of 8 bits, with a scale of each token and head."""

import math

import pytest
import torch

from rope_core import NoBackend, RopeConfig
from rope_core.kvcache.compute.quantisation import dequantise, quantise
from rope_core.kvcache.run import LayerInput, run_layers
from tests.core.kvcache_run.caches import append, attend, cache_of, run, stored
from tests.core.kvcache_run.test_attend import (
    BAR,
    by_index,
    every_dtype,
    expected,
    off,
    randn,
    rotated,
)
from tests.core.kvcache_run.test_bits import every_rope, positions_of

ROPE = RopeConfig.of(32, theta=1e4)
MAX_ERROR = 6e-2


def e4m3_cache(rope=ROPE, **fields):
    return cache_of(rope, kv_dtype="e4m3", head_dim=32, **fields)


def kv(count, *, dtype=torch.float32, seed=0, value_dim=32):
    return (
        randn(count, 2, 32, seed=seed, dtype=dtype),
        randn(count, 2, value_dim, seed=seed + 1, dtype=dtype),
    )


def test_all_elements_are_read_as_torch_reads_them():
    """One key of each element: the score of a query of ones is the element."""
    elements = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    cache = e4m3_cache(None, scale=1.0)
    append(cache, torch.ones(1, 2, 32), torch.ones(1, 2, 32))
    pool = cache.holdings.pools[0]
    page = int(cache.rows[0].segments[0].tables[0].kept[0])
    pool.scales[page] = 1
    q = torch.zeros(1, 4, 32)
    q[..., 3] = 0.5
    for element, value in zip(elements, elements.float(), strict=True):
        pool.keys[page, :, 0, 3] = element
        pool.values[page, :, 0, 5] = element
        answer = attend(cache, q)
        assert torch.allclose(answer.lse, 0.5 * value, atol=1e-7, rtol=1e-7, equal_nan=True)
        if not value.isnan():
            assert (answer.out[..., 5] == value).all()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 448.0, 3e38])
def test_a_number_is_off_by_a_sixteenth_at_most(size):
    x = randn(50, 2, 32).clamp(-1, 1) * size
    x[7] = 0
    elements, scales = quantise(x)
    assert scales.shape == (50, 2)
    assert not scales[7].any()
    assert not elements[7].float().any()
    assert torch.equal(scales, x.abs().amax(-1) / 448)
    error = (dequantise(elements, scales) - x).abs()
    if size > 1e-38:
        # half of the distance of two elements, of the normal and of the smallest ones
        assert (error <= x.abs() / 16 + scales[..., None] * 2**-10 * 1.01).all()
        again, scales_again = quantise(dequantise(elements, scales))
        assert torch.equal(again.view(torch.uint8), elements.view(torch.uint8))
        assert torch.allclose(scales_again, scales, rtol=1e-6)
    assert torch.isfinite(dequantise(elements, scales)).all()


@every_rope
@every_dtype
def test_what_is_stored_does_not_depend_on_how_it_was_sent(rope, dtype):
    k, v = kv(100, dtype=dtype)
    positions, whole = positions_of(rope, 100), None
    for cuts in ([100], [1] * 100, [7, 1, 50, 42], [64, 36]):
        cache, start = e4m3_cache(rope, dtype=dtype), 0
        for cut in cuts:
            part = slice(start, start + cut)
            append(cache, k[part], v[part], positions=positions[..., part])
            start += cut
        whole = whole or stored(cache)
        assert all(map(torch.equal, stored(cache), whole))
    elements, scales = quantise(v.float())
    assert torch.equal(whole[1], elements.view(torch.uint8))
    assert torch.equal(whole[2][:, 1], scales)


@pytest.mark.parametrize("num_queries", [1, 3, 200])
@pytest.mark.parametrize("factor", [1, 30])
@every_dtype
def test_the_error_of_an_answer(dtype, num_queries, factor):
    """4 channels of the keys may be 30 times as large, and of the queries as much smaller."""
    rope = RopeConfig.of(128, theta=1e4)
    count, dims = 4096, {"heads": 4, "kv_heads": 2, "head_dim": 128}
    cache = cache_of(rope, dtype=dtype, kv_dtype="e4m3", num_bytes=2**24, **dims)
    q = randn(num_queries, 4, 128, seed=2, dtype=dtype)
    k, v = (randn(count, 2, 128, seed=i, dtype=dtype) for i in range(2))
    channels = [5, 40, 69, 104]  # pairs that are rotated together
    k[..., channels] *= factor
    q[..., channels] /= factor
    append(cache, k, v)
    answer, positions = attend(cache, q), torch.arange(count)
    at = positions[-num_queries:]
    truth = expected(rotated(q, at, rope), rotated(k, positions, rope), v, by_index(at, positions))
    assert off(answer.out, truth[0]) <= MAX_ERROR


@pytest.mark.parametrize("fields", [{}, {"window": 9}, {"chunk": 7, "softcap": 2.0}], ids=str)
@pytest.mark.parametrize(("head_dim", "value_dim"), [(32, 32), (16, 24), (6, 10)])
@pytest.mark.parametrize("num_queries", [1, 3, 40])
@every_dtype
def test_an_answer_is_that_of_the_stored_numbers(fields, head_dim, value_dim, num_queries, dtype):
    rope = RopeConfig.of(head_dim, theta=1e4)
    cache = cache_of(
        rope, dtype=dtype, kv_dtype="e4m3", head_dim=head_dim, value_dim=value_dim, **fields
    )
    q = randn(num_queries, 4, head_dim, seed=2, dtype=dtype)
    k = randn(45, 2, head_dim, dtype=dtype)
    append(cache, k, randn(45, 2, value_dim, seed=1, dtype=dtype))
    answer = attend(cache, q)
    # pages behind the window are gone, or not
    held = cache.rows[0].segments[0].num_gone(0, 8)
    k_bytes, v_bytes, scales = stored_from(cache, held)
    elements = (x.view(torch.float8_e4m3fn) for x in (k_bytes, v_bytes))
    k, v = (dequantise(x, scales[:, i]) for i, x in enumerate(elements))
    positions = torch.arange(45)
    at = positions[-num_queries:]
    masks = {name: fields.get(name) for name in ("window", "chunk")}
    visible = by_index(at, positions[held:], **masks)
    truth = expected(rotated(q, at, rope), k, v, visible, softcap=fields.get("softcap"))
    assert off(answer.out, truth[0]) <= BAR[dtype]
    assert (answer.lse - truth[1]).abs().max() <= 10 * BAR[dtype]


def stored_from(cache, first):
    """Return what is stored of the tokens from `first` on."""
    if first:
        pool, segment = cache.holdings.pools[0], cache.rows[0].segments[0]
        slots = torch.arange(first, segment.num_tokens) + segment.first_slot
        pages = torch.tensor([segment.tables[0][int(page)] for page in slots // 8])
        at = pages, slice(None), slots % 8
        return (
            *(x.view(torch.uint8)[at] for x in (pool.keys, pool.values)),
            pool.scales[pages, :, :, slots % 8],
        )
    return stored(cache)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("num_queries", [1, 4])
def test_a_number_that_is_not_finite_stays_in_its_token(bad, which, num_queries):
    k, v = kv(20)
    (k, v)[which][18, 1, 4] = bad
    cache, clean = e4m3_cache(), e4m3_cache()
    append(cache, k, v)
    append(clean, *kv(20))
    for one, other in zip(stored(cache), stored(clean), strict=True):
        assert torch.equal(one[:18], other[:18])
        assert torch.equal(one[19:], other[19:])
    cache.truncate(18)
    append(cache, k[18:19], v[18:19])
    q = randn(num_queries, 4, 32, seed=2)
    index = torch.arange(18 - num_queries, 18)
    pending = cache.plan([0], num_queries=[num_queries], q_index=index, positions=index)
    (hidden,) = run_layers([LayerInput(pending.layers[0], q)])
    cache.commit(pending)
    assert hidden.out.isfinite().all()
    seen = attend(cache, q).out[-1]
    # query heads 2 and 3 have head 1 of the keys
    assert seen[2:].isnan().any()
    assert seen[:2].isfinite().all()


def test_sessions_of_two_dtypes_in_one_pool_answer_in_one_run():
    arena, answers = None, []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        cache = e4m3_cache(dtype=dtype)
        arena = arena or cache.arena
        other = type(cache)(cache.config, arena)
        append(other, *kv(20, dtype=dtype))
        pending = other.plan([0], num_queries=[1])
        answers.append(LayerInput(pending.layers[0], randn(1, 4, 32, seed=2, dtype=dtype)))
    assert len(arena.pools) == 1
    together = run_layers(answers)
    for call, answer in zip(answers, together, strict=True):
        assert torch.equal(run_layers([call])[0].out, answer.out)
        assert answer.out.dtype == call.q.dtype


def test_forks_copy_scales_on_write():
    cache, q = e4m3_cache(layers=2), randn(1, 4, 32, seed=9)
    append(cache, *kv(20))
    before = stored(cache, 1)
    (fork,) = cache.fork()
    append(fork, *kv(1, seed=5))
    append(cache, *kv(1, seed=7))
    for layer in range(2):
        for one, other, old in zip(stored(cache, layer), stored(fork, layer), before, strict=True):
            assert torch.equal(one[:20], old)
            assert torch.equal(other[:20], old)
    fresh = e4m3_cache(layers=2)
    append(fresh, *kv(20))
    append(fresh, *kv(1, seed=5))
    assert torch.equal(attend(fork, q, 1).out, attend(fresh, q, 1).out)


def test_select_tail_moves_the_bits():
    cache = e4m3_cache(layers=2)
    append(cache, *kv(20))
    before = [stored(cache, layer) for layer in range(2)]
    run(cache, cache.plan_select_tail(9, [[0, 3, 8]]))
    kept = [*range(11), 11, 14, 19]
    for layer in range(2):
        for now, old in zip(stored(cache, layer), before[layer], strict=True):
            assert torch.equal(now, old[kept])


def test_compaction_rounds_moved_keys_once_more():
    cache, q = e4m3_cache(layers=2), randn(1, 4, 32, seed=9)
    k, v = kv(60)
    append(cache, k, v)
    cache.evict(4, 30)
    assert cache.num_segments == [2]
    before = [stored(cache, layer) for layer in range(2)]
    answer = attend(cache, q, 1).out
    run(cache, cache.plan_compaction(1))
    assert cache.num_segments == [1]
    for layer in range(2):
        now = stored(cache, layer)
        assert torch.equal(now[1], before[layer][1])
        assert torch.equal(now[2][:, 1], before[layer][2][:, 1])
        # the shorter segment moves: the first four tokens, by 26 positions
        assert torch.equal(now[0][4:], before[layer][0][4:])
        old = dequantise(before[layer][0][:4].view(torch.float8_e4m3fn), before[layer][2][:4, 0])
        new = dequantise(now[0][:4].view(torch.float8_e4m3fn), now[2][:4, 0])
        truth = rotated(old, torch.full((4,), 26), ROPE)
        assert 0 < off(new, truth) <= 4e-2
    assert off(attend(cache, q, 1).out, answer.double()) <= 3e-2


def test_rebase_rounds_keys_once_more():
    to = RopeConfig.of(32, theta=5e5)
    cache, fresh = e4m3_cache(), e4m3_cache(to)
    for each in (cache, fresh):
        append(each, *kv(40))
    run(cache, cache.plan_rebase([0], [to]))
    now, truth = stored(cache), stored(fresh)
    assert torch.equal(now[1], truth[1])
    k, k_truth = (
        dequantise(x[0].view(torch.float8_e4m3fn), x[2][:, 0]).double() for x in (now, truth)
    )
    assert 0 < off(k, k_truth) <= 6e-2


def test_a_page_has_an_element_of_a_byte_and_its_share_of_the_scales():
    shape = e4m3_cache().holdings.pools[0].shape
    assert shape.page_bytes == 2 * 2 * 8 * 32 + 2 * 2 * 8 * 4
    half = cache_of(ROPE, dtype=torch.bfloat16, head_dim=32).holdings.pools[0].shape
    assert half.page_bytes == 2 * 2 * 2 * 8 * 32


def test_kernels_decline_8_bits():
    cache = e4m3_cache()
    append(cache, *kv(9))
    pending = cache.plan([0], num_queries=[1])
    with pytest.raises(NoBackend):
        run_layers([LayerInput(pending.layers[0], randn(1, 4, 32))], "fused")


def test_threads_and_neighbours_change_no_bit():
    rope = RopeConfig.of(32)
    dims = {"heads": 16, "kv_heads": 4, "head_dim": 32}
    cache = cache_of(rope, kv_dtype="e4m3", num_bytes=2**24, **dims)
    append(cache, randn(8_200, 4, 32), randn(8_200, 4, 32, seed=1))
    (fork,) = cache.fork()
    q = randn(8, 16, 32, seed=2)
    num_threads, answers = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            answers.append(attend(cache, q))
    finally:
        torch.set_num_threads(num_threads)
    if answers[0].backend == "compiled":
        assert torch.equal(answers[0].out, answers[1].out)
    plans = [each.plan([0], num_queries=[8]) for each in (cache, fork)]
    together = run_layers([LayerInput(plan.layers[0], q, return_lse=True) for plan in plans])
    assert torch.equal(together[0].out, together[1].out)
    assert torch.equal(together[0].lse, answers[0].lse) or answers[0].backend != "compiled"
