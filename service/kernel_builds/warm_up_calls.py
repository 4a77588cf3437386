"""Calls that need every kernel that requests of a model can need.

A kernel is compiled for dtypes, widths and features, never for numbers of tokens, sequences or
heads. So a few calls of few tokens reach all kernels.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rope_core import Attend, AttentionConfig, Call, CosSin, Merge, RopeConfig, Rotate, Shift
from rope_core.checks import DTYPES
from rope_core.config import Layout

LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")

NUM_TOKENS = 100
"""Tokens of a prompt: more than `APPEND_ROWS`, so that the prefill kernel computes it."""

APPEND_ROWS = 64
"""Rows of a sequence, queries times heads per key head, up to which the decode kernel computes it.

The same number as `rope_core.kernels.tile_scheduler.APPEND_ROWS`, which needs Triton.
"""

NUM_FAR_KEYS = 2048
"""Keys of a long sequence, for which the decode kernel takes more than `APPEND_ROWS` rows."""


def usual_calls(heads: int, kv_heads: int, head_dim: int) -> Iterator[Call]:
    """Yield calls that every model needs, in each dtype: prompts, decoding, shifts, mergers."""
    rope = RopeConfig.of(head_dim)
    decode_queries = _decode_queries(heads, kv_heads)
    for dtype in DTYPES:
        q, k = (_heads(NUM_TOKENS, n, head_dim, dtype) for n in (heads, kv_heads))
        for layout in LAYOUTS:
            yield Rotate(q, k, replace(rope, layout=layout))
        yield Attend(q, k, k, rope)
        for num_queries in dict.fromkeys((1, decode_queries)):
            yield _append(q, k, rope, num_queries)
        yield Shift(k, torch.tensor(1), rope)
        yield Merge(q.expand(2, -1, -1, -1), torch.zeros(2, NUM_TOKENS, heads))
    yield CosSin(torch.arange(NUM_TOKENS), rope)


def rare_calls(heads: int, kv_heads: int, head_dim: int) -> Iterator[Call]:
    """Yield calls that some models need: each feature of rotation and attention alone."""
    rope = RopeConfig.of(head_dim)
    for dtype in DTYPES:
        q, k = (_heads(NUM_TOKENS, n, head_dim, dtype) for n in (heads, kv_heads))
        yield from _rotations(q, k, rope)
        for num_queries in dict.fromkeys((NUM_TOKENS, 1, _decode_queries(heads, kv_heads))):
            yield from _attentions(_append(q, k, rope, num_queries))
        far = _heads(NUM_FAR_KEYS, kv_heads, head_dim, dtype)
        yield _append(q, far, rope, min(NUM_TOKENS, _decode_queries(heads, kv_heads) + 1))


def _rotations(q: Tensor, k: Tensor, usual: RopeConfig) -> Iterator[Call]:
    positions = torch.arange(NUM_TOKENS)
    partial_dim = max(2, usual.head_dim // 4 * 2)
    for layout in LAYOUTS:
        whole = replace(usual, layout=layout)
        partial = RopeConfig.of(usual.head_dim, rotary_dim=partial_dim, layout=layout)
        for exact in (whole, partial):
            by_table = replace(exact, arithmetic="hf")
            for rope in (exact, by_table):  # the heads of a launch decide its tiles
                yield Rotate(q, k, rope, positions)
                yield Rotate(q, None, rope, positions)
                yield Rotate(None, k, rope, positions)
            yield Rotate(q, k, exact, positions.double())  # integers and floats are two kernels
            yield Shift(k, positions, exact)


def _attentions(plain: Attend) -> Iterator[Call]:
    """Yield attention with each feature alone.

    Kernels for pairs of features are built when requests need them, as all of them would take most
    of an hour on one CPU. An index with a float32 answer is the one pair here.
    """
    num_queries, num_keys = plain.q.shape[1], plain.k.shape[1]
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool)
    yield replace(plain, return_lse=True)
    for config in (
        AttentionConfig(causal=False),
        AttentionConfig(window=16),
        AttentionConfig(chunk=16),
        AttentionConfig(softcap=50.0),
    ):
        yield replace(plain, attention=config)
    yield replace(plain, sinks=torch.zeros(plain.q.shape[-2]))
    yield replace(plain, mask=mask)
    yield replace(plain, mask=torch.zeros(mask.shape))
    yield replace(plain, out_dtype=torch.float32, return_lse=True)
    q_index = torch.arange(num_keys - num_queries, num_keys)
    indexed = replace(plain, q_index=q_index, k_index=torch.arange(num_keys))
    yield indexed
    yield replace(indexed, out_dtype=torch.float32, return_lse=True)
    yield replace(
        plain,
        q=plain.q[0],
        k=plain.k[0],
        v=plain.v[0],
        cu_seqlens_q=torch.tensor([0, num_queries]),
        cu_seqlens_k=torch.tensor([0, num_keys]),
    )


def _append(q: Tensor, k: Tensor, rope: RopeConfig, num_queries: int) -> Attend:
    """Return attention of the last queries over all keys."""
    positions = torch.arange(k.shape[1] - num_queries, k.shape[1])
    return Attend(q[:, :num_queries], k, k, rope, q_positions=positions)


def _decode_queries(heads: int, kv_heads: int) -> int:
    """Return the most queries of a sequence that have up to APPEND_ROWS rows."""
    return max(1, APPEND_ROWS * kv_heads // heads)


def _heads(num_tokens: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(1, num_tokens, num_heads, head_dim, dtype=dtype)
