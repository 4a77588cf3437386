"""The calls of the warm-up reach all kernels that requests can need."""

import random
from collections.abc import Hashable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain

import pytest
import torch

import rope_core
from rope_core import Attend, CosSin, Merge, NoBackend, Rotate, Shift
from rope_core.builds import deferred_builds
from rope_core.calls import tensor_fields
from rope_core.errors import KernelNotBuilt
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.inference.engine import Engine
from service.kernel_builds.warm_up_calls import rare_calls, usual_calls

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(32, 8, 128), (4, 2, 64), (8, 8, 32), (71, 1, 64)]


def warm_up_calls(*shape: int) -> Iterable[rope_core.Call]:
    return chain(usual_calls(*shape), rare_calls(*shape))


def num_rows(call: Attend) -> int:
    return call.q.shape[-3] * call.q.shape[-2] // call.k.shape[-2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_usual_calls_reach_each_kernel_in_each_dtype(shape):
    calls = [*usual_calls(*shape)]
    for dtype in DTYPES:
        rows = {num_rows(c) for c in calls if isinstance(c, Attend) and c.q.dtype is dtype}
        assert max(rows) > 64, "the prefill kernel"
        group = shape[0] // shape[1]
        assert group in rows, "the decode kernel"
        if group <= 64:
            assert any(16 < num <= 64 for num in rows), "the decode kernel of more rows"
        of_dtype = [c for c in calls if not isinstance(c, CosSin)]
        kinds = {type(c) for c in of_dtype if any_tensor(c).dtype is dtype}
        assert kinds == {Rotate, Attend, Shift, Merge}


def any_tensor(call: rope_core.Call) -> torch.Tensor:
    return call.out if isinstance(call, Merge) else call.k


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_rare_calls_reach_each_feature_in_each_dtype_and_kernel(shape):
    calls = [c for c in rare_calls(*shape) if isinstance(c, Attend)]
    for dtype in DTYPES:
        for is_decode in (True, False):
            kernel_calls = [
                c for c in calls if c.q.dtype is dtype and (num_rows(c) <= 64) is is_decode
            ]
            masks = {None if c.mask is None else c.mask.dtype for c in kernel_calls}
            assert masks == {None, torch.bool, torch.float32}
            assert {c.q_index is None for c in kernel_calls} == {True, False}
            assert {c.sinks is None for c in kernel_calls} == {True, False}
            assert {c.out_dtype for c in kernel_calls} == {None, torch.float32}
            assert {c.cu_seqlens_q is None for c in kernel_calls} == {True, False}
            configs = [c.attention for c in kernel_calls]
            for feature in ("causal", "window", "chunk", "softcap"):
                assert len({getattr(config, feature) for config in configs}) == 2, feature


def test_rotations_have_positions_and_tables_for_whole_and_for_partial_heads():
    rotations = [c for c in warm_up_calls(4, 2, 64) if isinstance(c, Rotate)]
    for layout in ("half", "interleaved"):
        kernel_calls = [c for c in rotations if c.rope.layout == layout]
        assert {c.rope.arithmetic for c in kernel_calls} == {"float64", "hf"}
        assert {c.rope.rotary_dim for c in kernel_calls} == {32, 64}
        assert {(c.q is None, c.k is None) for c in kernel_calls} == {
            *((False, False), (False, True), (True, False))
        }
        dtypes = {None if c.positions is None else c.positions.dtype for c in kernel_calls}
        assert dtypes == {None, torch.int64, torch.float64}


@pytest.fixture
def nothing_built(interpreted, monkeypatch):
    """No kernel is built yet: those that earlier tests built would run and not be missing."""
    from rope_core.kernels import attention_kernel, merge, rotary

    for module in (attention_kernel, merge, rotary):
        monkeypatch.setattr(module.LAUNCHER, "built", {})


def variants_needed_by(calls: Iterable[rope_core.Call]) -> set[Hashable]:
    """Return the keys of the kernels that calls need; nothing is built or launched."""
    functions = {
        Attend: rope_core.attend,
        Rotate: rope_core.rotate,
        Shift: rope_core.shift,
        Merge: rope_core.merge,
    }
    missed: dict[Hashable, dict[Hashable, object]] = {}

    def pretend(key: Hashable, build: partial) -> None:
        missed[key] = build.func.__self__.built
        missed[key][key] = lambda *_: None

    with deferred_builds(pretend):
        for call in calls:
            with suppress(NoBackend):
                while True:
                    try:
                        functions[type(call)](call, backend="fused")
                        break
                    except KernelNotBuilt:
                        continue
    for key, built in missed.items():
        del built[key]
    return {*missed}


def random_rotation(rng: random.Random, heads: int, kv_heads: int, head_dim: int) -> rope_core.Call:
    """Return a random rotation, shift or merge that a client of a model may send."""
    dtype, rows, length = rng.choice(DTYPES), rng.choice((1, 1, 2)), rng.randint(1, 40)
    q, k = (torch.zeros(rows, length, n, head_dim, dtype=dtype) for n in (heads, kv_heads))
    rope = rope_core.RopeConfig.of(
        head_dim,
        rotary_dim=rng.choice((head_dim, head_dim // 2)),
        layout=rng.choice(("half", "interleaved")),
        arithmetic=rng.choice(("float64", "hf")),
    )
    steps = torch.arange(length)
    positions = rng.choice(
        (None, steps, steps.int(), steps.float(), steps.double(), steps.expand(rows, -1))
    )
    match rng.choice((Rotate, Rotate, Shift, Merge)):
        case kind if kind is Rotate:
            tensors = rng.choice(((q, k), (q, None), (None, k)))
            return Rotate(*tensors, rope, positions, inverse=rng.random() < 0.3)
        case kind if kind is Shift:
            return Shift(k, rng.choice((torch.tensor(3), steps)), rope)
    parts = q.expand(rng.randint(1, 5), *q.shape).contiguous()
    return Merge(parts, torch.zeros(parts.shape[:-1]))


@pytest.mark.parametrize("shape", [(32, 8, 128), (28, 4, 128), (16, 16, 64)], ids=str)
def test_no_rotation_shift_or_merge_misses_a_kernel_after_the_warm_up(nothing_built, shape):
    calls = [c for c in warm_up_calls(*shape) if isinstance(c, (Rotate, Shift, Merge))]
    rng = random.Random(11)
    requests = (random_rotation(rng, *shape) for _ in range(150))
    warm = variants_needed_by(calls)
    assert variants_needed_by(requests) <= warm
    assert len(warm) > 20


def random_attention(rng: random.Random, heads: int, kv_heads: int, head_dim: int) -> Attend:
    """Return random attention with at most one of the features that some models have."""
    dtype, rows = rng.choice(DTYPES), rng.choice((1, 1, 2))
    num_keys = rng.choice((rng.randint(1, 90), rng.randint(200, 3000)))
    num_queries = rng.choice((1, rng.randint(1, num_keys), min(num_keys, rng.randint(1, 90))))
    q = torch.zeros(rows, num_queries, heads, head_dim, dtype=dtype)
    k = torch.zeros(rows, num_keys, kv_heads, head_dim, dtype=dtype)
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool)
    index = torch.arange(num_queries)
    feature = rng.choice(
        (
            *({}, {}, {"mask": mask}, {"mask": mask.to(dtype)}, {"mask": mask[None, None]}),
            *({"sinks": torch.zeros(heads)}, {"q_index": index}, {"out_dtype": torch.float32}),
            {"q_index": index, "out_dtype": torch.float32},
        )
    )
    bounds = rng.choice(({}, {"window": 9}, {"causal": False}, {"chunk": 12}, {"scale": 1.0}))
    if not feature:
        bounds |= rng.choice(({}, {"softcap": 30.0}))
    rope = rng.choice((None, rope_core.RopeConfig.of(head_dim)))
    config = rope_core.AttentionConfig(**bounds)
    return Attend(q, k, k, rope, config, return_lse=rng.random() < 0.5, **feature)


@pytest.mark.parametrize("shape", [(32, 8, 128), (7, 1, 64)], ids=str)
def test_no_attention_misses_a_kernel_after_the_warm_up(nothing_built, shape):
    rng = random.Random(12)
    requests = (random_attention(rng, *shape) for _ in range(150))
    warm = variants_needed_by(c for c in warm_up_calls(*shape) if not isinstance(c, CosSin))
    usual = variants_needed_by(c for c in usual_calls(*shape) if not isinstance(c, CosSin))
    assert variants_needed_by(requests) <= warm
    assert usual < warm


@pytest.mark.parametrize("shape", [(6, 3, 16), (9, 1, 8)], ids=str)
def test_every_call_runs(shape):
    engine = Engine(Cpu(BufferPool(2**24)), max_call_s=60)
    for call in warm_up_calls(*shape):
        (result,) = engine.run([engine.job(call)]).results
        tensors = tensor_fields(result)
        assert tensors, "an answer"
        assert not any(tensor.isnan().any() for tensor in tensors.values())
