"""Checks of the arguments of a cache's operations."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rope_core.calls.rope_checks import MAX_POSITION, POSITION_RANGE
from rope_core.checks import INTEGERS, MAX_INDEX, check_in_range, dtype_of, not_a_tensor, shape_of
from rope_core.errors import ConfigError, ShapeError, brief
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.errors import TooManyTokens
from rope_core.kvcache.plan import IntArray

MAX_ROWS = 1_024
"""Most rows of a cache."""


def check_layers(group_of: Sequence[tuple[int, int]], layers: Sequence[int]) -> int:
    """Return the group of layers; raise ConfigError unless they are of one, none twice."""
    if len(layers) == 1 and 0 <= layers[0] < len(group_of):
        return group_of[layers[0]][0]
    check_layer_indices(len(group_of), layers)
    groups = {group_of[layer][0] for layer in layers}
    if len(groups) > 1:
        raise ConfigError("layers", "of one group", brief(layers))
    return groups.pop()


def check_layer_indices(num_layers: int, layers: Sequence[int]) -> None:
    """Raise ConfigError unless there are layers, none twice, all in [0, num_layers)."""
    if not layers:
        raise ConfigError("layers", "at least one layer", "none")
    _check_indices("layers", layers, num_layers)


def check_rows(batch: int, rows: Sequence[int] | None, *, repeats: bool = False) -> Sequence[int]:
    """Return the rows, all where None; raise ConfigError unless they are in [0, batch)."""
    if rows is None:
        return range(batch)
    _check_indices("rows", rows, batch, repeats=repeats)
    return rows


def check_batch(name: str, num_rows: int) -> None:
    """Raise ConfigError unless a cache can have so many rows."""
    if not 1 <= num_rows <= MAX_ROWS:
        raise ConfigError(name, f"of 1 to {MAX_ROWS:,} rows", num_rows)


def check_max_tokens(row: int, num_tokens: int, max_tokens: int | None) -> None:
    """Raise TooManyTokens if a row would have more than max_tokens."""
    if max_tokens is not None and num_tokens > max_tokens:
        raise TooManyTokens(
            f"row {row} would have {num_tokens:,} tokens, more than max_tokens {max_tokens:,}"
        )


def one_per_row(name: str, value: int | Sequence[int], num_rows: int) -> Sequence[int]:
    """Return a number for each row; raise ConfigError if there are others than one or that many."""
    if isinstance(value, int):
        return [value] * num_rows
    if len(value) != num_rows:
        raise ConfigError(name, f"a number, or one for each of {num_rows} rows", brief(value))
    return value


def one_per_axis(config: KVConfig, name: str, value: int | Sequence[int]) -> Sequence[int]:
    """Return a number for each axis of a position; raise ConfigError unless all are in range."""
    num_axes = config.num_axes
    numbers = [value] * num_axes if isinstance(value, int) else value
    if len(numbers) != num_axes:
        raise ConfigError(name, f"a number, or one for each of {num_axes} axes", brief(value))
    for number in numbers:
        check_in_range(name, number, -MAX_POSITION, MAX_POSITION)
    return numbers


def check_positions(config: KVConfig, positions: Tensor | None, num_tokens: int) -> IntArray | None:
    """Return positions as `[A, T]`; raise ShapeError unless they are integers in range.

    Args:
        config: how many axes a position has.
        positions: `[T]`, or `[A, T]`; one number stands for all axes where the rope allows it.
        num_tokens: T.
    """
    if positions is None:
        return None
    if not isinstance(positions, Tensor):
        raise not_a_tensor("positions", positions)
    if positions.dtype not in INTEGERS:
        raise ShapeError("positions", "int64", dtype_of(positions))
    axes = config.num_axes
    shapes = [[axes, num_tokens]]
    ropes = [group.rope for group in config.groups if group.rope is not None]
    if all(rope.num_axes == 1 or rope.frequency_table.broadcasts_axes for rope in ropes):
        shapes.insert(0, [num_tokens])
    if [*positions.shape] not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ShapeError("positions", expected, shape_of(positions))
    numbers: IntArray = positions.detach().to("cpu", torch.int64).numpy()
    low = 0 if any(rope.whole_positions for rope in ropes) else -MAX_POSITION
    if numbers.size and not (low <= numbers.min() and numbers.max() <= MAX_POSITION):
        expected = POSITION_RANGE if low else "between 0 and 2**53"
        raise ShapeError("positions", expected, "others")
    return np.broadcast_to(numbers, (axes, num_tokens))


def check_index(q_index: Tensor | None, num_queries: Sequence[int] | None) -> IntArray | None:
    """Return q_index as `[Tq]`; raise ShapeError unless it has an integer for each query."""
    if q_index is None:
        return None
    if not isinstance(q_index, Tensor):
        raise not_a_tensor("q_index", q_index)
    if q_index.dtype not in INTEGERS:
        raise ShapeError("q_index", "int64", dtype_of(q_index))
    if [*q_index.shape] != [sum(num_queries or ())]:
        raise ShapeError("q_index", f"[{sum(num_queries or ())}]", shape_of(q_index))
    numbers: IntArray = q_index.detach().to("cpu", torch.int64).numpy()
    if numbers.size and not (numbers.min() >= -MAX_INDEX and numbers.max() < MAX_INDEX):
        raise ShapeError("q_index", "in [-2**62, 2**62)", "others")
    return numbers


def check_tail_mask(
    tail_mask: Tensor | None, num_queries: Sequence[int] | None, num_rows: int
) -> None:
    """Raise ShapeError unless the mask is bool `[n, m]` or `[rows, n, m]`, for n queries a row."""
    if tail_mask is None:
        return
    if not isinstance(tail_mask, Tensor):
        raise not_a_tensor("tail_mask", tail_mask)
    if tail_mask.dtype != torch.bool:
        raise ShapeError("tail_mask", "bool", dtype_of(tail_mask))
    shape = [*tail_mask.shape]
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != num_rows):
        raise ShapeError("tail_mask", f"[n, m] or [{num_rows}, n, m]", str(shape))
    if any(num != shape[-2] for num in num_queries or (0,)):
        expected = f"of {max(num_queries or (0,))} queries in each row"
        raise ShapeError("tail_mask", expected, str(shape))


def _check_indices(name: str, indices: Sequence[int], count: int, *, repeats: bool = False) -> None:
    """Raise ConfigError unless all indices are in [0, count), and different without `repeats`."""
    if not all(0 <= index < count for index in indices):
        raise ConfigError(name, f"in [0, {count - 1}]", brief(indices))
    if not repeats and len({*indices}) < len(indices):
        raise ConfigError(name, "different", brief(indices))
