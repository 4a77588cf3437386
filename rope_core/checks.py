"""What tensors of a call must be, each with an error that names the tensor."""

import torch
from torch import Tensor

from rope_core.errors import ShapeError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)

MAX_EMPTY = 4096
"""Most sequences of no tokens that a pack may have."""

FARTHEST = 2.0**63
"""Bound of fractional positions: that of the whole ones."""


def check_heads(name: str, tensor: Tensor, head_dim: int | None = None) -> None:
    """Heads must be `[B, S, H, D]` or `[T, H, D]`, floating point and not without width."""
    if tensor.dtype not in DTYPES:
        raise ShapeError(name, "float32, float16 or bfloat16", dtype_of(tensor))
    shape = tensor.shape
    if len(shape) not in (3, 4):
        raise ShapeError(name, "[B, S, H, D] or packed [T, H, D]", shape_of(tensor))
    if not shape[-1] or not shape[-2]:
        raise ShapeError(name, "of at least one head, one element wide", shape_of(tensor))
    if head_dim is not None and shape[-1] != head_dim:
        raise ShapeError(name, f"of head_dim {head_dim}", shape_of(tensor))


def check_positions(name: str, positions: Tensor | None, tokens: Tensor) -> None:
    """Positions must be one for each token, or for each of a row of the batch."""
    if positions is None:
        return
    check_position_dtype(name, positions)
    leading = tokens.shape[:-2]
    if positions.shape not in (leading, leading[-1:]):
        either = f"{list(leading[-1:])}" + (f" or {list(leading)}" if len(leading) == 2 else "")
        raise ShapeError(name, either, shape_of(positions))


def check_position_dtype(name: str, positions: Tensor) -> None:
    """Positions must be integers, or finite float32 or float64."""
    if positions.dtype in INTEGERS:
        return
    if positions.dtype not in (torch.float32, torch.float64):
        raise ShapeError(name, "int64, or fractional in float32 or float64", dtype_of(positions))
    if not bool((positions.abs() <= FARTHEST).all()):  # false for NaN
        raise ShapeError(name, "of numbers between -2**63 and 2**63", "others, or NaN")


def check_cu_seqlens(name: str, cu_seqlens: Tensor | None, tokens: Tensor) -> None:
    """Offsets must rise from 0 to the number of packed tokens."""
    if cu_seqlens is None:
        return
    if tokens.ndim != 3:
        raise ShapeError(name, "absent where tensors are [B, S, H, D]", shape_of(cu_seqlens))
    if cu_seqlens.dtype not in INTEGERS:
        raise ShapeError(name, "int32 or int64", dtype_of(cu_seqlens))
    if cu_seqlens.ndim != 1 or not len(cu_seqlens):
        raise ShapeError(name, "[sequences + 1]", shape_of(cu_seqlens))
    if len(cu_seqlens) > len(tokens) + MAX_EMPTY:
        expected = f"of at most {len(tokens) + MAX_EMPTY} elements for {len(tokens)} tokens"
        raise ShapeError(name, expected, shape_of(cu_seqlens))
    ends = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if ends != (0, len(tokens)):
        raise ShapeError(name, f"from 0 to {len(tokens)} tokens", f"from {ends[0]} to {ends[1]}")
    if bool((cu_seqlens[1:] < cu_seqlens[:-1]).any()):
        raise ShapeError(name, "non-decreasing", "a sequence that ends before it starts")


def tokens_of(tensor: Tensor) -> int:
    """Return the number of tokens."""
    return tensor.shape[:-2].numel()


def bytes_of(tensor: Tensor | None) -> int:
    """Return the bytes of a tensor, 0 where there is none."""
    return 0 if tensor is None else tensor.nbytes


def shape_of(tensor: Tensor) -> str:
    """Return a shape as errors show it."""
    return str(list(tensor.shape))


def dtype_of(tensor: Tensor) -> str:
    """Return a dtype as errors show it."""
    return str(tensor.dtype).removeprefix("torch.")
