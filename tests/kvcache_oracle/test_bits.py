"""Bits that are promised: how tokens were sent, where pages lie and who runs beside change none."""

import random
from itertools import pairwise

import pytest
import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.run import LayerInput, run_layers
from tests.kvcache_oracle.configurations import Configuration, Group, Rope
from tests.kvcache_oracle.library import library_config

GROUPS = {
    "plain": Group(layers=(0,)),
    "window": Group(layers=(0,), window=7, rollback=4),
    "chunk and sinks": Group(layers=(0,), heads=4, kv_heads=2, chunk=5, sinks=(0.1, 0.2, 0.3, 0.4)),
    "partial": Group(layers=(0,), rope=Rope(rotary_dim=4, layout="interleaved"), softcap=3.0),
    "three axes": Group(layers=(0,), rope=Rope(sections=(2, 1, 1))),
    "none": Group(layers=(0,), rope=None, value_dim=4),
}
DTYPES = ("float32", "bfloat16", "float16")


def arena() -> Arena:
    return Arena(2**22, page_tokens=4, slab_bytes=2**16)


def numbers(n: int, group: Group, dtype: str, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "q": (group.heads, group.head_dim),
        "k": (group.kv_heads, group.head_dim),
        "v": (group.kv_heads, group.value_dim),
    }
    return {
        name: torch.randn(n, *shape, generator=generator).to(getattr(torch, dtype))
        for name, shape in shapes.items()
    }


def append(cache: KVCache, given: dict[str, torch.Tensor], start: int, stop: int) -> None:
    pending = cache.plan([0], num_new=[stop - start])
    run_layers([LayerInput(pending.layers[0], k=given["k"][start:stop], v=given["v"][start:stop])])
    cache.commit(pending)


def attend(*caches: KVCache, q: torch.Tensor) -> list[torch.Tensor]:
    """Attend with all caches in one run."""
    pendings = [cache.plan([0], num_queries=[len(q)]) for cache in caches]
    inputs = [LayerInput(each.layers[0], q, return_lse=True) for each in pendings]
    outputs = run_layers(inputs)
    for cache, pending in zip(caches, pendings, strict=True):
        cache.commit(pending)
    made = []
    for output in outputs:
        assert output.out is not None
        assert output.lse is not None
        made.append(torch.cat([output.out.float(), output.lse[..., None]], dim=-1))
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUPS)
def test_how_tokens_were_sent(name: str, dtype: str) -> None:
    group, rng = GROUPS[name], random.Random(name)
    config, num_tokens = library_config(Configuration((group,), dtype)), 23
    given = numbers(num_tokens, group, dtype)
    answers = []
    for cuts in ([], [*range(1, num_tokens)], *(rng.sample(range(1, num_tokens), 5) for _ in "ab")):
        cache = KVCache(config, arena())
        ends = [0, *sorted(cuts), num_tokens]
        for start, stop in pairwise(ends):
            append(cache, given, start, stop)
        answers += attend(cache, q=given["q"][-2:])
    for each in answers[1:]:
        assert torch.equal(each, answers[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUPS)
def test_who_runs_beside_and_where_pages_lie(name: str, dtype: str) -> None:
    """Caches of many lengths grow by turns, so their pages are mixed; one of them is looked at."""
    group, rng = GROUPS[name], random.Random(name)
    config = library_config(Configuration((group,), dtype))
    given = numbers(40, group, dtype)
    alone = KVCache(config, arena())
    append(alone, given, 0, 21)
    (expected,) = attend(alone, q=given["q"][:2])
    memory = arena()
    mixed = KVCache(config, memory)
    others = [KVCache(config, memory) for _ in range(6)]
    start = 0
    while start < 21:
        stop = min(start + rng.randrange(1, 5), 21)
        append(mixed, given, start, stop)
        start = stop
        other = rng.choice(others)
        append(other, numbers(7, group, dtype, seed=start), 0, rng.randrange(2, 8))
        if rng.random() < 0.3:
            other.truncate(0)
    several = [other for other in others if other.length[0] >= 2]
    for number in range(len(several) + 1):
        caches = [*several[:number], mixed, *several[number:]]
        assert torch.equal(attend(*caches, q=given["q"][:2])[number], expected)
    (fork,) = mixed.fork()
    assert torch.equal(attend(fork, q=given["q"][:2])[0], expected)
    append(fork, given, 21, 30)
    assert torch.equal(attend(mixed, q=given["q"][:2])[0], expected)
    append(mixed, given, 21, 30)
    assert torch.equal(*attend(mixed, fork, q=given["q"][:2]))
    mixed.close()
    append(alone, given, 21, 30)
    assert torch.equal(*attend(alone, fork, q=given["q"][:2]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hidden_value_reaches_no_answer(dtype: str) -> None:
    """NaN in another row, and behind the length in the same page."""
    group = GROUPS["plain"]
    config = library_config(Configuration((group,), dtype))
    given = numbers(12, group, dtype)
    clean, memory = KVCache(config, arena()), arena()
    append(clean, given, 0, 6)
    (expected,) = attend(clean, q=given["q"][:1])
    bad = {name: torch.full_like(each, float("nan")) for name, each in given.items()}
    dirty = KVCache(config, memory)
    append(dirty, bad, 0, 12)
    dirty.truncate(0)
    append(dirty, given, 0, 6)
    pending = dirty.plan([0], num_new=[3])
    run_layers([LayerInput(pending.layers[0], k=bad["k"][:3], v=bad["v"][:3])])
    dirty.discard(pending)
    assert torch.equal(attend(dirty, q=given["q"][:1])[0], expected)
