"""Read the tensors of a step, an append or an attend: tokens of all rows, one after the other."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rope_core import ShapeError
from rope_core.kvcache.config import KVGroup
from service.errors import MissingTensor


class Tokens(NamedTuple):
    """Tensors of one call, packed: T tokens of all rows, the same tokens in each layer."""

    num_tokens: list[int]
    """Tokens of each row."""
    q: list[Tensor] | None
    """Of each layer `[T, H, D]`; None: no queries."""
    k: list[Tensor] | None
    """Of each layer `[T, Hkv, D]`; None: no new tokens."""
    v: list[Tensor] | None
    positions: Tensor | None
    """int64 `[T]`, or `[A, T]`."""
    q_index: Tensor | None
    """int64 `[T]`."""
    tail_mask: Tensor | None
    """bool `[n, m]` or `[B, n, m]`."""
    lead: tuple[int, ...]
    """Axes of the answer before those of heads: as those of q or k."""


def read_tokens(
    tensors: Mapping[str, Tensor],
    group: KVGroup,
    dtype: torch.dtype,
    num_layers: int | None,
    num_axes: int,
    broadcasts_axes: bool = True,
) -> Tokens:
    """Return the tensors of a message; names have been checked.

    q, k and v are `[B, n, heads, D]`, or `[T, heads, D]` with `cu_seqlens` int64 `[B + 1]`; of
    several layers `[L, B, n, heads, D]` or `[L, T, heads, D]`.

    Args:
        tensors: of the message.
        group: what the layers are.
        dtype: of q, k and v.
        num_layers: how many layers the first axis has; None: there is no such axis.
        num_axes: numbers of a position.
        broadcasts_axes: whether one number may stand for those of all axes.

    Raises:
        ShapeError, MissingTensor: a tensor does not fit.
    """
    cu_seqlens = tensors.get("cu_seqlens")
    num_lead = (2 if cu_seqlens is None else 1) + (num_layers is not None)
    lead: tuple[int, ...] | None = None
    packed: dict[str, list[Tensor]] = {}
    for name in ("q", "k", "v"):
        x = tensors.get(name)
        if x is None:
            continue
        heads = group.num_heads if name == "q" else group.num_kv_heads
        width = group.value_dim if name == "v" else group.head_dim
        shape = tuple(x.shape)
        if len(shape) != num_lead + 2 or shape[-2] != heads or shape[-1] != width:
            axes = _axes(num_layers is not None, cu_seqlens is not None)
            raise ShapeError(name, f"[{axes}, {heads}, {width}]", [*shape])
        _check_dtype(name, x, dtype)
        if lead is None:
            lead = shape[:-2]
        elif lead != shape[:-2]:
            first = next(iter(packed))
            raise ShapeError(name, f"of as many tokens as {first}, {[*lead]}", [*shape[:-2]])
        packed[name] = [*x] if num_layers is not None else [x]
    if lead is None:
        raise MissingTensor("q", "k")
    if num_layers is not None and lead[0] != num_layers:
        raise ShapeError(next(iter(packed)), f"of {num_layers} layers, as `layers`", lead[0])
    if cu_seqlens is None:
        num_rows, num_each = lead[-2:]
        num_tokens = [num_each] * num_rows
        total = num_rows * num_each
        for name, layers in packed.items():
            packed[name] = [x.reshape(total, *x.shape[-2:]) for x in layers]
    else:
        total = lead[-1]
        num_tokens = read_row_lengths(cu_seqlens, total)
        num_rows, num_each = len(num_tokens), None
    positions, q_index = tensors.get("positions"), tensors.get("q_index")
    if positions is not None:
        positions = _per_token(
            "positions", positions, num_axes, num_rows, num_each, total, broadcasts_axes
        )
    if q_index is not None:
        q_index = _per_token("q_index", q_index, 1, num_rows, num_each, total)
    return Tokens(
        num_tokens,
        packed.get("q"),
        packed.get("k"),
        packed.get("v"),
        positions,
        q_index,
        tensors.get("tail_mask"),
        lead,
    )


def read_packed(
    tensors: Mapping[str, Tensor],
    group: KVGroup,
    dtype: torch.dtype,
    num_tokens: list[int],
    num_axes: int,
    broadcasts_axes: bool = True,
) -> Tokens:
    """Return the tensors of one layer, q, k and v `[T, heads, D]`, as `read_tokens`."""
    checked: dict[str, list[Tensor]] = {}
    for name in ("q", "k", "v"):
        x = tensors[name]
        heads = group.num_heads if name == "q" else group.num_kv_heads
        width = group.value_dim if name == "v" else group.head_dim
        if x.shape[1] != heads or x.shape[2] != width:
            raise ShapeError(name, f"[tokens, {heads}, {width}]", [*x.shape])
        _check_dtype(name, x, dtype)
        checked[name] = [x]
    total = tensors["q"].shape[0]
    positions = tensors.get("positions")
    if positions is not None:
        num_rows = len(num_tokens)
        positions = _per_token(
            "positions", positions, num_axes, num_rows, None, total, broadcasts_axes
        )
    return Tokens(
        num_tokens, checked["q"], checked["k"], checked["v"], positions, None, None, (total,)
    )


def _check_dtype(name: str, x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype is not dtype:
        expected = f"{_name(dtype)}, the dtype of the session"
        raise ShapeError(name, expected, _name(x.dtype))


def read_row_lengths(cu_seqlens: Tensor, total: int) -> list[int]:
    """Return the tokens of each row of a packed call. Raises ShapeError."""
    is_valid = cu_seqlens.ndim == 1 and cu_seqlens.dtype in (torch.int64, torch.int32)
    bounds: list[int] = cu_seqlens.tolist() if is_valid and len(cu_seqlens) > 1 else []
    lengths = [stop - start for start, stop in pairwise(bounds)]
    if not bounds or bounds[0] or bounds[-1] != total or min(lengths) < 0:
        expected = f"int64 [rows + 1], from 0 to the {total} tokens, never less than before"
        raise ShapeError("cu_seqlens", expected, bounds[:8] or _described(cu_seqlens))
    return lengths


def _per_token(
    name: str,
    x: Tensor,
    num_axes: int,
    num_rows: int,
    num_each: int | None,
    total: int,
    broadcasts_axes: bool = True,
) -> Tensor:
    """Return a number for each token, int64 `[T]`, or `[A, T]` with several axes."""
    axes: tuple[int, ...] = () if num_axes == 1 else (num_axes,)
    shape = tuple(x.shape)
    if x.dtype not in (torch.int64, torch.int32):
        raise ShapeError(name, "int64", _name(x.dtype))
    x = x.to(torch.int64)
    if num_each is None:
        if shape == (*axes, total):
            return x
        if shape == (total,) and broadcasts_axes:  # one number stands for all axes
            return x.expand(num_axes, total)
        raise ShapeError(name, f"{[*axes, total]}", [*shape])
    if shape == (*axes, num_rows, num_each):
        return x.reshape(*axes, total)
    if axes and broadcasts_axes and shape in ((num_rows, num_each), (num_each,), (1, num_each)):
        return x.expand(num_axes, num_rows, num_each).reshape(num_axes, total)
    if shape in ((*axes, num_each), (*axes, 1, num_each)):  # one row stands for all
        each = x.reshape(*axes, 1, num_each)
        return each.expand(*axes, num_rows, num_each).reshape(*axes, total)
    expected = f"{[*axes, num_each]} or {[*axes, num_rows, num_each]}"
    raise ShapeError(name, expected, [*shape])


def check_num_rows(num_tokens: Sequence[int], num_rows: int) -> None:
    """Raise ShapeError if the tensors have another number of rows than the call."""
    if len(num_tokens) != num_rows:
        raise ShapeError("the tensors", f"of {num_rows} rows, as the call", len(num_tokens))


def _axes(has_layers: bool, is_packed: bool) -> str:
    return ("layers, " if has_layers else "") + ("tokens" if is_packed else "rows, tokens")


def _described(x: Tensor) -> str:
    return f"{_name(x.dtype)}{[*x.shape]}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
