"""Positions of schemes with other positions for distant tokens, or without the middle ones."""

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
    validate.integer("length", length, 1, validate.MAX_POSITIONS // 4)
    queries = length if query_length is None else validate.integer("query_length", query_length, 1)
    if queries > length:
        raise ConfigError("query_length", f"at most the {length} keys", queries)
    validate.integer("window", window, 1)
    return torch.arange(length - queries, length), torch.arange(length)
