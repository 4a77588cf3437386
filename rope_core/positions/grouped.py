"""Positions of schemes with other positions for distant tokens, or without the middle ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.errors import ConfigError
from rope_core.positions import validate


@dataclass(frozen=True)
class GroupedPositions:
    """Two pairs of positions. Scores at a distance below the window are those of the near pair."""

    q_near: Tensor
    """int64 `[Q]`."""
    k_near: Tensor
    """int64 `[K]`."""
    q_far: Tensor
    """int64 `[Q]`; float32 if fractional."""
    k_far: Tensor
    """`[K]`, of the dtype of `q_far`."""


@dataclass(frozen=True)
class DualChunkPositions:
    """Positions of a key, and three of a query: which one counts depends on the key's chunk."""

    q_intra: Tensor
    """int64 `[Q]`: for keys of the query's own chunk."""
    q_succ: Tensor
    """int64 `[Q]`: for keys of the chunk before."""
    q_inter: Tensor
    """int64 `[Q]`: for keys of earlier chunks."""
    k: Tensor
    """int64 `[K]`: from 0 in each chunk."""
    q_chunk: Tensor
    """int64 `[Q]`: the chunk of each query."""
    k_chunk: Tensor
    """int64 `[K]`: the chunk of each key."""
    attention_factor: Tensor
    """float32 `[]`: multiply q and k by this number, so scores by its square."""


@dataclass(frozen=True)
class StreamingPositions:
    """The keys that a cache keeps, and their positions."""

    kept: Tensor
    """int64 `[N]`: index of each kept key among all keys."""
    positions: Tensor
    """int64 `[N]`: position of each kept key inside the cache, 0 to N - 1."""
    delta: Tensor
    """int64 `[N]`: positions - kept, the shift of keys that were rotated at their index."""


def self_extend_positions(
    *, length: int, window: int, group: int, query_length: int | None = None
) -> GroupedPositions:
    """Return SelfExtend's positions: `group` distant tokens share one position.

    Far positions are i // group + window - window // group for a query at i, and j // group for a
    key at j.

    Models: SelfExtend.

    Args:
        length: number of keys.
        window: distances below it are near.
        group: number of tokens with one far position.
        query_length: number of queries, which are the last tokens; `length` if None.
    """
    queries, keys = _near(length, window, query_length)
    validate.integer("group", group, 1)
    shift = window - window // group
    return GroupedPositions(queries, keys, queries // group + shift, keys // group)


def rerope_positions(
    *, length: int, window: int, query_length: int | None = None
) -> GroupedPositions:
    """Return ReRoPE's positions: a distance above the window becomes the window.

    Far positions are `window` for queries and 0 for keys.

    Models: ReRoPE.

    Args:
        length: number of keys.
        window: distances below it are near.
        query_length: number of queries, which are the last tokens; `length` if None.
    """
    queries, keys = _near(length, window, query_length)
    return GroupedPositions(queries, keys, torch.full_like(queries, window), torch.zeros_like(keys))


def leaky_rerope_positions(
    *, length: int, window: int, factor: float, query_length: int | None = None
) -> GroupedPositions:
    """Return Leaky ReRoPE's positions: a far distance d is window + (d - window) / factor.

    Models: Leaky ReRoPE.

    Args:
        length: number of keys.
        window: distances below it are near.
        factor: divides far positions, which are float32.
        query_length: number of queries, which are the last tokens; `length` if None.
    """
    queries, keys = _near(length, window, query_length)
    shift = window - window / validate.positive("factor", factor)
    q_far, k_far = queries.double() / factor + shift, keys.double() / factor
    return GroupedPositions(queries, keys, q_far.float(), k_far.float())


def dual_chunk_positions(
    *,
    length: int,
    chunk_size: int = 8192,
    local_size: int = 1024,
    original_max_position_embeddings: int = 0,
    query_length: int | None = None,
) -> DualChunkPositions:
    """Return the positions of dual-chunk attention: chunks of chunk_size - local_size tokens.

    A query at i and a key at j are at i % s and j % s, with s = chunk_size - local_size. For keys
    of the chunk before, the query is at min(i % s + s, chunk_size), so that `local_size` neighbours
    keep their distance; for earlier keys at min(2 s - 1, chunk_size). The rule is that of vLLM and
    of ChunkLlama. The numbers of a config's `dual_chunk_attention_config` have the same names.

    Models: Qwen2.5-1M, dual-chunk attention, ChunkLlama.

    Args:
        length: number of keys.
        chunk_size: largest distance, `chunk_size` of the config.
        local_size: neighbours that keep their distance across chunks, `local_size` of the config.
        original_max_position_embeddings: of the config: beyond this length L, `attention_factor` is
            0.1 ln(length / L) + 1; 0 if the config has none.
        query_length: number of queries, which are the last tokens; `length` if None.

    >>> at = dual_chunk_positions(length=8, chunk_size=4, local_size=1, query_length=2)
    >>> (at.q_intra.tolist(), at.q_succ.tolist(), at.q_inter.tolist())
    ([0, 1], [3, 4], [4, 4])
    """
    queries, keys = _last_and_all(length, query_length, 7)
    validate.integer("chunk_size", chunk_size, 1)
    validate.integer("local_size", local_size, 0, chunk_size - 1)
    trained = validate.integer("original_max_position_embeddings", original_max_position_embeddings)
    tokens = chunk_size - local_size
    q_intra = queries % tokens
    return DualChunkPositions(
        q_intra=q_intra,
        q_succ=(q_intra + tokens).clamp(max=chunk_size),
        q_inter=torch.full_like(queries, min(2 * tokens - 1, chunk_size)),
        k=keys % tokens,
        q_chunk=queries // tokens,
        k_chunk=keys // tokens,
        attention_factor=torch.tensor(
            0.1 * math.log(length / trained) + 1.0 if 0 < trained < length else 1.0
        ),
    )


def streaming_positions(*, length: int, sink_tokens: int, recent_tokens: int) -> StreamingPositions:
    """Return the tokens that StreamingLLM's cache keeps, and their positions inside the cache.

    The cache keeps the first `sink_tokens` and the last `recent_tokens`. The position of a new
    token is the number of kept tokens, not the number of all tokens.

    Models: StreamingLLM, attention sinks.

    Args:
        length: number of tokens so far. If keys of a cache and new keys all have positions inside
            the cache, the number of both: `delta` then is the shift by this eviction.
        sink_tokens: number of first tokens to keep.
        recent_tokens: number of last tokens to keep.

    >>> streaming_positions(length=6, sink_tokens=1, recent_tokens=2).delta.tolist()
    [0, -3, -3]
    """
    validate.integer("length", length, 1)
    validate.integer("sink_tokens", sink_tokens, 0, validate.MAX_POSITIONS)
    validate.integer("recent_tokens", recent_tokens, 1, validate.MAX_POSITIONS)
    sinks = min(sink_tokens, length)
    recent = min(recent_tokens, length - sinks)
    validate.count("length", 3 * (sinks + recent))
    kept = torch.cat([torch.arange(sinks), torch.arange(length - recent, length)])
    positions = torch.arange(sinks + recent)
    return StreamingPositions(kept, positions, positions - kept)


def _near(length: int, window: int, query_length: int | None) -> tuple[Tensor, Tensor]:
    """Return near positions of queries, the last `query_length` tokens, and of `length` keys."""
    validate.integer("window", window, 1)
    return _last_and_all(length, query_length, 4)


def _last_and_all(length: int, query_length: int | None, copies: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the last `query_length` tokens, and of all `length` tokens.

    Args:
        length: number of keys.
        query_length: number of queries; `length` if None.
        copies: number of tensors of an answer.
    """
    validate.integer("length", length, 1, validate.MAX_POSITIONS // copies)
    queries = length if query_length is None else validate.integer("query_length", query_length, 1)
    if queries > length:
        raise ConfigError("query_length", f"at most the {length} keys", queries)
    return torch.arange(length - queries, length), torch.arange(length)
