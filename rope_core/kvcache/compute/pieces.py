"""The keys that queries see, cut into pieces that are attended to one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from rope_core.backends.work import UNBOUNDED
from rope_core.config import AttentionConfig
from rope_core.kvcache.plan import KeySegment, RowPlan

PART_PLACES = 512
"""A piece ends where the place in the row is a multiple of this: the kernels' split of keys."""


@dataclass(slots=True)
class Piece:
    """Keys `start` to `stop` of a segment, within one part of the row."""

    segment: KeySegment
    start: int
    stop: int
    all_visible: bool
    """Whether every query sees every key of the piece."""


@dataclass(slots=True)
class VisibleRange:
    """Indices of keys, both ends included: those that some query sees, and those that all see."""

    first: int
    last: int
    inner_first: int
    inner_last: int


def visible_range(low: int, high: int, config: AttentionConfig) -> VisibleRange:
    """Return the indices that queries of an index from `low` to `high` see."""
    left, right = UNBOUNDED, 0 if config.causal else UNBOUNDED
    if config.window is not None:
        left, right = config.window - 1, config.window_ahead
    visible = VisibleRange(low - left, high + right, high - left, low + right)
    if config.chunk is not None:
        low_start, high_start = (i // config.chunk * config.chunk for i in (low, high))
        visible.first = max(visible.first, low_start)
        visible.last = min(visible.last, high_start + config.chunk - 1)
        visible.inner_first = max(visible.inner_first, high_start)
        visible.inner_last = min(visible.inner_last, low_start + config.chunk - 1)
    return visible


def pieces(
    row: RowPlan,
    low: int,
    high: int,
    config: AttentionConfig,
    part_places: int = PART_PLACES,
) -> Iterator[Piece]:
    """Yield the pieces that queries of an index from `low` to `high` see, in order.

    A piece ends where the place in the row is a multiple of `part_places`, and where keys begin or
    end that every query sees by its index.
    """
    visible = visible_range(low, high, config)
    masked_from = row.num_keys
    if row.tail_mask is not None:
        masked_from -= row.tail_mask.shape[-1]
    for segment in row.segments:
        index, place = segment.first_index, segment.first_place
        start = max(0, visible.first - index)
        end = min(segment.num_keys, visible.last - index + 1)
        while start < end:
            stop = min(end, ((place + start) // part_places + 1) * part_places - place)
            for edge in (visible.inner_first - index, visible.inner_last + 1 - index):
                if start < edge < stop and visible.inner_first <= visible.inner_last:
                    stop = edge
            all_visible = (
                visible.inner_first <= index + start
                and index + stop - 1 <= visible.inner_last
                and place + stop <= masked_from
            )
            yield Piece(segment, start, stop, all_visible)
            start = stop


def visible_keys(
    piece: Piece,
    q_index: Tensor,
    tail_mask: Tensor | None,
    end_place: int,
    config: AttentionConfig,
) -> Tensor:
    """Return which keys of a piece each query sees, bool `[n, keys]`.

    Args:
        piece: the keys.
        q_index: int64 `[n]`.
        tail_mask: bool `[n, m]`, or None.
        end_place: the place behind the last key of the row.
        config: causal, window and chunk.
    """
    first, num_keys = piece.segment.first_index + piece.start, piece.stop - piece.start
    k_index = torch.arange(first, first + num_keys, device=q_index.device)
    distance = q_index[:, None] - k_index
    visible = torch.ones_like(distance, dtype=torch.bool)
    if config.window is not None:
        visible &= (distance < config.window) & (distance >= -config.window_ahead)
    elif config.causal:
        visible &= distance >= 0
    if config.chunk is not None:
        q_chunk, k_chunk = (t.div(config.chunk, rounding_mode="floor") for t in (q_index, k_index))
        visible &= q_chunk[:, None] == k_chunk
    if tail_mask is not None:
        # the columns of the mask are the last places of the row
        column = piece.segment.first_place + piece.start - (end_place - tail_mask.shape[-1])
        hidden_from = max(0, -column)
        visible[:, hidden_from:] &= tail_mask[:, max(0, column) : max(0, column + num_keys)]
    return visible


@lru_cache(maxsize=256)
def piece_config(config: AttentionConfig) -> AttentionConfig:
    """Return the config of a piece, whose mask has all that is hidden."""
    return replace(config, causal=False, window=None, window_ahead=0, chunk=None)
