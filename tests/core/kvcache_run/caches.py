"""Caches in an arena, with the tensors of their calls."""

import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.run import LayerInput, run_layers, run_moves
from tests.core.kvcache_run.build import group_of


def cache_of(rope, *, dtype=torch.float32, kv_dtype="same", num_bytes=2**22, **fields):
    """Return an empty cache in an arena of its own."""
    config = KVConfig(groups=(group_of(rope, **fields),), dtype=dtype, kv_dtype=kv_dtype)
    return KVCache(config, Arena(num_bytes, page_tokens=8))


def append(cache, k, v, layers=None, positions=None):
    """Append k `[T, Hkv, D]` and v to the only row, the same in all layers."""
    layers = range(cache.config.num_layers) if layers is None else layers
    for layer in layers:
        pending = cache.plan([layer], num_new=[len(k)], positions=positions)
        run_layers([LayerInput(pending.layers[0], None, k, v)])
        cache.commit(pending)


def attend(cache, q, layer=0, out_dtype=None):
    """Return the answer of the last tokens of the only row."""
    pending = cache.plan([layer], num_queries=[len(q)])
    call = LayerInput(pending.layers[0], q, out_dtype=out_dtype, return_lse=True)
    (answer,) = run_layers([call])
    cache.commit(pending)
    return answer


def run(cache, pending):
    """Run the moves of a planned operation, and commit it."""
    run_moves(pending.moves)
    cache.commit(pending)


def stored(cache, layer=0):
    """Return the elements of keys and values of the only row, as bytes, and their scales."""
    pool, (row,) = cache.holdings.pools[0], cache.rows
    parts = []
    for segment in row.segments:
        slots = torch.arange(segment.first_slot, segment.first_slot + segment.num_tokens)
        pages = torch.tensor([segment.tables[0][int(page)] for page in slots // 8]) + layer
        at = pages, slice(None), slots % 8
        parts.append(
            [
                pool.keys.view(torch.uint8)[at],
                pool.values.view(torch.uint8)[at],
                pool.scales[pages, :, :, slots % 8],
            ]
        )
    return [torch.cat(part) for part in zip(*parts, strict=True)]
