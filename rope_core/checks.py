"""What tensors of a call must be, each with an error that names the tensor."""

import math

import torch
from torch import Tensor

from rope_core.errors import ShapeError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)


MAX_EMPTY = 4096
"""Most sequences of no tokens that a pack may have."""


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


def check_sinks(name: str, sinks: Tensor | None, num_heads: int) -> None:
    """Sinks must be one logit for each query head; -inf is none."""
    if sinks is None:
        return
    if sinks.dtype not in DTYPES:
        raise ShapeError(name, "float32, float16 or bfloat16", dtype_of(sinks))
    if sinks.shape != (num_heads,):
        raise ShapeError(name, f"[{num_heads}], one for each head of q", shape_of(sinks))
    _check_logits(name, sinks)


def check_mask(name: str, mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """A mask must have the axes of scores, and be of booleans or of what can be added to them."""
    if mask is None:
        return
    num_rows = q.shape[0] if q.ndim == 4 else 1
    scores = [num_rows, q.shape[-2], q.shape[-3], k.shape[-3]]
    if mask.dtype not in (torch.bool, *DTYPES):
        raise ShapeError(name, "bool, float32, float16 or bfloat16", dtype_of(mask))
    shape = mask.shape
    if len(shape) not in (2, 4) or any(
        size not in (1, full) for size, full in zip(shape, scores[-len(shape) :], strict=True)
    ):
        expected = f"{scores[2:]} or {scores}, or 1 in place of any of these"
        raise ShapeError(name, expected, shape_of(mask))
    if mask.dtype != torch.bool:
        _check_logits(name, mask)


def check_index(name: str, index: Tensor | None, tokens: Tensor) -> None:
    """An index must be a whole number for each token, or for each of a row of the batch."""
    if index is None:
        return
    if index.dtype not in INTEGERS:
        raise ShapeError(name, "int64", dtype_of(index))
    leading = [*tokens.shape[:-2]]
    if [*index.shape] not in (leading, leading[-1:]):
        shapes = dict.fromkeys((str(leading[-1:]), str(leading)))
        raise ShapeError(name, " or ".join(shapes), shape_of(index))
    if index.numel() and not -(2**62) <= int(index.min()) <= int(index.max()) < 2**62:
        raise ShapeError(name, "in [-2**62, 2**62)", "others")


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.numel() and not logits.amax().item() < math.inf:  # NaN, too, is not
        raise ShapeError(name, "of finite numbers or -Infinity", "Infinity, or NaN")


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
