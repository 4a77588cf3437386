"""Positions of schemes that see far tokens otherwise than near ones, or drop the middle ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.errors import ConfigError
from rope_core.positions import validate


@dataclass(frozen=True)
class GroupedPositions:
    """Two pairs of positions: scores at a distance below the window are of the near pair."""

    q_near: Tensor
    """`[Q]`, int64."""
    k_near: Tensor
    """`[K]`, int64."""
    q_far: Tensor
    """`[Q]`, int64, or float32 where fractional."""
    k_far: Tensor
    """`[K]`, as `q_far`."""


@dataclass(frozen=True)
class StreamedPositions:
    """What a cache keeps of its keys, and where they are now."""

    kept: Tensor
    """int64 `[N]`: index of each key that is kept, among those there were."""
    positions: Tensor
    """int64 `[N]`: position of each inside the cache, 0 to N - 1."""
    delta: Tensor
    """int64 `[N]`: positions - kept, what keys that were rotated there have to be moved by."""


def self_extend_positions(
    *, length: int, window: int, group: int, query_length: int | None = None
) -> GroupedPositions:
    """Return SelfExtend's positions: `group` far tokens share one.

    Far, a query at i is at i // group + window - window // group, a key at j // group.

    Args:
        length: keys.
        window: distances below it are near.
        group: tokens that have one far position.
        query_length: queries, which are the last tokens; as many as keys where None.
    """
    near = _last(length, query_length)
    validate.whole("window", window, 1)
    validate.whole("group", group, 1)
    keys = torch.arange(length)
    return GroupedPositions(near, keys, near // group + window - window // group, keys // group)


def rerope_positions(
    *, length: int, window: int, query_length: int | None = None
) -> GroupedPositions:
    """Return ReRoPE's positions: every distance from the window on counts as the window.

    Args:
        length: keys.
        window: distances below it are near; far, queries are at `window`, keys at 0.
        query_length: queries, which are the last tokens; as many as keys where None.
    """
    near = _last(length, query_length)
    validate.whole("window", window, 1)
    keys = torch.arange(length)
    return GroupedPositions(near, keys, torch.full_like(near, window), torch.zeros_like(keys))


def leaky_rerope_positions(
    *, length: int, window: int, factor: float, query_length: int | None = None
) -> GroupedPositions:
    """Return Leaky ReRoPE's positions: a far distance d is window + (d - window) / factor.

    Args:
        length: keys.
        window: distances below it are near.
        factor: far positions are this much closer together; fractional, float32.
        query_length: queries, which are the last tokens; as many as keys where None.
    """
    near = _last(length, query_length)
    validate.whole("window", window, 1)
    validate.positive("factor", factor)
    keys = torch.arange(length)
    back = window - window / factor
    return GroupedPositions(
        near, keys, (near.double() / factor + back).float(), (keys.double() / factor).float()
    )


def streaming_positions(*, length: int, sink_tokens: int, recent_tokens: int) -> StreamedPositions:
    """Return what StreamingLLM's cache keeps of `length` tokens, at positions inside the cache.

    It keeps the first `sink_tokens` and the last `recent_tokens`. A new token's position is the
    number of the kept ones, and not the number of all.

    Args:
        length: tokens so far; or keys of a cache and new ones, all at positions inside it, in
            which case `delta` moves the kept ones after this eviction.
        sink_tokens: first tokens, which stay.
        recent_tokens: last tokens, which stay.

    >>> streaming_positions(length=6, sink_tokens=1, recent_tokens=2).delta.tolist()
    [0, -3, -3]
    """
    validate.whole("length", length, 1)
    validate.whole("sink_tokens", sink_tokens, 0, validate.MAX_POSITIONS)
    validate.whole("recent_tokens", recent_tokens, 1, validate.MAX_POSITIONS)
    sinks = min(sink_tokens, length)
    recent = min(recent_tokens, length - sinks)
    validate.few("length", 3 * (sinks + recent))
    kept = torch.cat([torch.arange(sinks), torch.arange(length - recent, length)])
    positions = torch.arange(sinks + recent)
    return StreamedPositions(kept, positions, positions - kept)


def _last(length: int, query_length: int | None) -> Tensor:
    """Return the positions of the last `query_length` of `length` tokens."""
    validate.whole("length", length, 1, validate.MAX_POSITIONS // 4)
    queries = length if query_length is None else validate.whole("query_length", query_length, 1)
    if queries > length:
        raise ConfigError("query_length", f"at most the {length} keys", queries)
    return torch.arange(length - queries, length)
