"""Export: the tokens of a cache as named tensors, read piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from rope_core.checks import check_choice
from rope_core.errors import ConfigError
from rope_core.kvcache.arguments import check_layer_indices, check_rows
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.reading import rolled_past
from rope_core.kvcache.row import Row
from rope_core.kvcache.transfer.entries import StoredSegment, moved_entries, stored_entries
from rope_core.kvcache.transfer.stored import Form, StoredHeads

PIECE_BYTES = 2**20
"""Bytes of a piece, if a token of one head is not longer."""


@dataclass(frozen=True, slots=True)
class ExportedTensor:
    """A tensor of an export. It is read when its pieces are."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]
    """Yields contiguous tensors on the CPU, which together are the elements in order."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Return the whole tensor."""
        parts = [piece.reshape(-1) for piece in self.pieces()]
        return torch.cat(parts).view(self.shape) if parts else self._empty()

    def _empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class Export:
    """The tensors of an export, and what else an import needs."""

    form: Form
    rows: Sequence[int]
    """Rows of the cache, as the names of the tensors have them."""
    layers: Sequence[int]
    starts: Sequence[int]
    """Place of the first token, of each row."""
    lengths: Sequence[Sequence[int]]
    """Place behind the last token, of each layer and row."""
    is_whole: bool
    """Whether the cache can be made of the export, if its form is `stored`."""
    segments: Sequence[Sequence[StoredSegment]]
    """Of each row, how its segments have the entries of `segments.{row}`."""
    tensors: Sequence[ExportedTensor]
    """`positions.{row}` and `segments.{row}` of all rows, then `k.{layer}.{row}` and
    `v.{layer}.{row}`. k and v have the last of the tokens; all of them, unless a window has moved
    on."""


def export(
    cache: KVCache,
    form: Form = "stored",
    *,
    rows: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> Export:
    """Return the tensors of a cache. While they are read, the cache must not change.

    Args:
        cache: no operation of it is planned.
        form: of the keys.
        rows: which, each once; None: all.
        layers: which, each once; None: all.
        start: the first place. None: the first one that each layer still has.
        stop: place behind the last token; None: the length of the row, that of its shortest layer.

    Raises:
        ConfigError: no such form, rows, layers or places.
        RolledPast: a page of a token is gone.
    """
    check_choice("form", form, get_args(Form))
    all_rows, all_layers = range(cache.batch), range(cache.config.num_layers)
    rows = all_rows if rows is None else _ordered(check_rows(cache.batch, rows))
    if layers is not None:
        check_layer_indices(len(all_layers), layers)
    layers = all_layers if layers is None else _ordered(layers)
    if cache.config.kv_dtype != "same":
        raise ConfigError("kv_dtype", '"same" to export', cache.config.kv_dtype)
    groups = sorted({cache.group_of[layer][0] for layer in layers})
    tensors: list[ExportedTensor] = []
    heads: list[list[ExportedTensor]] = [[] for _ in layers]
    starts, stops, segments = [], [], []
    for number in rows:
        row, length = cache.rows[number], cache.length[number]
        end = _check_place("stop", length if stop is None else stop, number, 0, length)
        firsts = {group: min(_first_kept(row, group), end) for group in groups}
        if start is not None:
            _check_place("start", start, number, 0, end)
            for group, first in firsts.items():
                if start < first:
                    raise rolled_past(group)
            firsts = dict.fromkeys(groups, start)
        begin = min(firsts.values())
        stored = _add_numbers(tensors, form, row, number, begin, end)
        for of_layer, layer in zip(heads, layers, strict=True):
            first = firsts[cache.group_of[layer][0]]
            of_layer += _heads(cache, form, layer, number, first, end)
        starts.append(begin)
        stops.append(end)
        segments.append(stored)
    is_whole = rows == all_rows and layers == all_layers
    is_whole &= start is None and stop is None
    tensors += [each for of_layer in heads for each in of_layer]
    lengths = [stops] * len(layers)
    return Export(form, rows, layers, starts, lengths, is_whole, segments, tensors)


def _ordered(numbers: Sequence[int]) -> Sequence[int]:
    """Return numbers in ascending order, as a range where all from 0 on are there."""
    numbers = sorted(numbers)
    return range(len(numbers)) if numbers == [*range(len(numbers))] else numbers


def _check_place(name: str, place: int, row: int, least: int, most: int) -> int:
    if not least <= place <= most:
        raise ConfigError(name, f"from {least} to {most:,}, of row {row}", place)
    return place


def _first_kept(row: Row, group: int) -> int:
    """Return the place from which on no token of a group is gone."""
    first = place = 0
    for segment in row.segments:
        if num_gone := segment.num_gone(group, row.page_tokens):
            first = place + num_gone
        place += segment.num_tokens
    return first


def _add_numbers(
    tensors: list[ExportedTensor], form: Form, row: Row, number: int, start: int, stop: int
) -> list[StoredSegment]:
    """Add the positions and the entries of a row; return how its segments have the entries."""
    num_axes, num_tokens = row.num_axes, stop - start
    shape = (num_tokens,) if num_axes == 1 else (num_axes, num_tokens)
    segments: list[StoredSegment] = []
    if form == "stored":
        entries, segments = stored_entries(row, start, stop)
    else:
        entries = moved_entries(row, start, stop)

    def positions() -> Iterator[Tensor]:
        yield torch.from_numpy(np.ascontiguousarray(row.positions(start, stop)))

    def numbers() -> Iterator[Tensor]:
        yield torch.from_numpy(entries)

    tensors.append(ExportedTensor(f"positions.{number}", torch.int64, shape, positions))
    tensors.append(ExportedTensor(f"segments.{number}", torch.int64, entries.shape, numbers))
    return segments


def _heads(
    cache: KVCache, form: Form, layer: int, row: int, start: int, stop: int
) -> Iterator[ExportedTensor]:
    group = cache.config.groups[cache.group_of[layer][0]]
    for name, width in (("k", group.head_dim), ("v", group.value_dim)):
        stored = StoredHeads(cache, layer, row, name == "k", form)
        shape = (group.num_kv_heads, stop - start, width)
        dtype = cache.config.storage_dtype
        pieces = _Pieces(stored, start, stop, group.num_kv_heads, width * dtype.itemsize)
        yield ExportedTensor(f"{name}.{layer}.{row}", dtype, shape, pieces)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Reads a tensor: several whole heads at a time, or parts of one head."""

    stored: StoredHeads
    start: int
    stop: int
    num_heads: int
    token_bytes: int
    """Of one head."""

    def __call__(self) -> Iterator[Tensor]:
        num_tokens = max(1, PIECE_BYTES // self.token_bytes)
        length = self.stop - self.start
        if not length:
            return
        num_heads = max(1, num_tokens // length)
        for head in range(0, self.num_heads, num_heads):
            end = min(head + num_heads, self.num_heads)
            for start in range(self.start, self.stop, num_tokens):
                yield self.stored.read(head, end, start, min(start + num_tokens, self.stop))
