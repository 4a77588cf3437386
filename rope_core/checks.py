"""Checks of numbers and tensors. Each error has the name, the rule and the value."""

import math
import sys
from collections.abc import Collection
from typing import Any, TypeGuard

import torch
from torch import Tensor

from rope_core.errors import HEADS_FIRST, TRANSPOSE, ConfigError, ShapeError, brief
from rope_core.miscount import Miscount

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)

MAX_EMPTY = 4096
"""Most sequences without tokens that a pack may have."""

MAX_INDEX = 2**62
"""Bound of an index: differences of two fit int64."""

MAX_USUAL_HEADS = 256
"""No known model has more heads. More of them than tokens, up to this number, are suspicious."""


def is_number(value: object, limit: float = sys.float_info.max) -> TypeGuard[int | float]:
    """Tell whether `value` is an int or a finite float, no boolean, of at most `limit` in size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -limit <= value <= limit  # false for NaN


def is_whole(value: object) -> TypeGuard[int | float]:
    """Tell whether `value` is a whole number that int64 holds, such as 4 or 4.0."""
    return is_number(value) and -(2**63) <= value < 2**63 and value == int(value)


def check_in_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is None or in [`low`, `high`]."""
    if value is not None and not low <= value <= high:  # true for NaN
        bounds = (f"{b:g}" if isinstance(b, float) else str(b) for b in (low, high))
        raise ConfigError(name, f"in [{', '.join(bounds)}]", value)


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise ConfigError unless `value` is finite and at least `minimum`."""
    if not minimum <= value < math.inf:  # true for NaN
        raise ConfigError(name, f"a number of at least {minimum}", value)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(name, f"one of {[*choices]}", brief(value))


def check_heads(name: str, tensor: Tensor, head_dim: int | None = None) -> None:
    """Raise ShapeError unless `tensor` is `[B, S, H, D]` or `[T, H, D]`, H and D above 0."""
    if not isinstance(tensor, Tensor):
        raise not_a_tensor(name, tensor)
    if tensor.dtype not in DTYPES:
        check_dtype(name, tensor, *DTYPES)
    shape = tensor.shape
    if len(shape) not in (3, 4):
        raise ShapeError(name, "[B, S, H, D] or packed [T, H, D]", shape_of(tensor))
    if not shape[-1] or not shape[-2]:
        raise ShapeError(name, "of at least one head and one element", shape_of(tensor))
    if head_dim is not None and shape[-1] != head_dim:
        raise ShapeError(name, f"of head_dim {head_dim}", shape_of(tensor))


def check_cu_seqlens(name: str, cu_seqlens: Tensor, tokens: Tensor) -> None:
    """Raise ShapeError unless `cu_seqlens`, `[N + 1]`, rises from 0 to the number of tokens."""
    if not isinstance(cu_seqlens, Tensor):
        raise not_a_tensor(name, cu_seqlens)
    if tokens.ndim != 3:
        raise ShapeError(
            name, "absent: only packed tensors [T, H, D] have it", shape_of(cu_seqlens)
        )
    if cu_seqlens.dtype not in INTEGERS:
        raise ShapeError(name, "int32 or int64", dtype_of(cu_seqlens))
    if cu_seqlens.ndim != 1 or not len(cu_seqlens):
        raise ShapeError(name, "[sequences + 1]", shape_of(cu_seqlens))
    if len(cu_seqlens) > len(tokens) + MAX_EMPTY:
        expected = f"of at most {len(tokens) + MAX_EMPTY} elements for {len(tokens)} tokens"
        raise ShapeError(name, expected, shape_of(cu_seqlens))
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if (first, last) != (0, len(tokens)):
        raise ShapeError(name, f"from 0 to {len(tokens)} tokens", f"from {first} to {last}")
    if bool((cu_seqlens[1:] < cu_seqlens[:-1]).any()):
        raise ShapeError(name, "non-decreasing", "a sequence that ends before it starts")


def check_sinks(name: str, sinks: Tensor | None, num_heads: int) -> None:
    """Raise ShapeError unless `sinks` is `[H]`: a logit for each query head, -inf for no sink."""
    if sinks is None:
        return
    check_dtype(name, sinks, *DTYPES)
    if sinks.shape != (num_heads,):
        raise ShapeError(name, f"[{num_heads}], one for each head of q", shape_of(sinks))
    _check_logits(name, sinks)


def check_mask(name: str, mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """Raise ShapeError unless `mask` broadcasts to `[B, H, Sq, Sk]`, boolean or floating point."""
    if mask is None:
        return
    num_rows = q.shape[0] if q.ndim == 4 else 1
    scores = [num_rows, q.shape[-2], q.shape[-3], k.shape[-3]]
    check_dtype(name, mask, torch.bool, *DTYPES)
    shape = mask.shape
    if len(shape) not in (2, 4) or any(
        size not in (1, full) for size, full in zip(shape, scores[-len(shape) :], strict=True)
    ):
        expected = f"{scores[2:]} or {scores}, or 1 in place of any of these"
        raise ShapeError(name, expected, shape_of(mask))
    if mask.dtype != torch.bool:
        _check_logits(name, mask)


def check_index(name: str, index: Tensor | None, tokens: Tensor) -> None:
    """Raise ShapeError unless `index` is integer `[S]` or `[B, S]`, or `[T]`."""
    if index is None:
        return
    if not isinstance(index, Tensor):
        raise not_a_tensor(name, index)
    if index.dtype not in INTEGERS:
        raise ShapeError(name, "int64", dtype_of(index))
    shapes = [*tokens.shape[-3:-2]], [*tokens.shape[:-2]]
    check_count(name, index, name.removesuffix("_index"), tokens, *shapes)
    if index.numel() and not -MAX_INDEX <= int(index.min()) <= int(index.max()) < MAX_INDEX:
        raise ShapeError(name, "in [-2**62, 2**62)", "others")


def check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """Raise ShapeError unless `tensor` has one of `dtypes`."""
    if not isinstance(tensor, Tensor):
        raise not_a_tensor(name, tensor)
    if tensor.dtype not in dtypes:
        *others, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ShapeError(name, expected, dtype_of(tensor))


def check_shape(name: str, tensor: Tensor, *shapes: list[int]) -> None:
    """Raise ShapeError unless `tensor` has one of `shapes`."""
    if [*tensor.shape] not in shapes:
        raise ShapeError(name, _in_words(shapes), shape_of(tensor))


def check_count(
    name: str, tensor: Tensor, heads_name: str, heads: Tensor, *shapes: list[int]
) -> None:
    """Raise ShapeError unless `tensor` has one of `shapes`: an element for each token of `heads`.

    The error names the axis of `heads`, `[B, S, H, D]` or `[T, H, D]`, that does not fit.
    """
    shape = [*tensor.shape]
    if shape in shapes:
        return
    sizes = dict(zip("BSHD" if heads.ndim == 4 else "THD", heads.shape, strict=True))
    token_axis = "S" if heads.ndim == 4 else "T"
    miscount = None
    if shape and shape[-1] != sizes[token_axis]:
        miscount = Miscount(name, shape[-1], heads_name, sizes, token_axis)
    elif heads.ndim == 4 and len(shape) == max(map(len, shapes)) and shape[-2] != sizes["B"]:
        miscount = Miscount(name, shape[-2], heads_name, sizes, "B")
    remedy = ""
    if miscount is not None and miscount.likely_order == "[B, H, S, D]":
        remedy = f"Then {TRANSPOSE}"
    raise ShapeError(name, _in_words(shapes), shape_of(tensor), remedy, miscount)


def not_a_tensor(name: str, value: object) -> ShapeError:
    """Return the error for an argument that is no torch tensor."""
    convert = "torch.from_numpy" if hasattr(value, "__array_interface__") else "torch.tensor"
    kind = type(value)
    got = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return ShapeError(name, f"a torch.Tensor (convert with {convert})", f"a {got}")


def layout_hint(q: Tensor, k: Tensor) -> str:
    """Return HEADS_FIRST if `looks_heads_first`, else no text: a hint for a `ShapeError`."""
    return HEADS_FIRST if looks_heads_first(q, k) else ""


def looks_heads_first(q: Tensor, k: Tensor | None) -> bool:
    """Tell whether q and k look like `[B, H, S, D]` where `[B, S, H, D]` is read.

    The number of k's tokens divides that of q's, and k has more heads than q, or as many heads and
    fewer tokens.

    Args:
        q: `[B, S, H, D]`; other ranks are not recognized.
        k: as q, or None.
    """
    if q.ndim != 4:
        return False
    num_tokens, num_heads = q.shape[1:3]
    if k is None or k.ndim != 4 or not k.shape[1] or num_tokens % k.shape[1]:
        return False
    return k.shape[2] > num_heads or (k.shape[2] == num_heads and k.shape[1] < num_tokens)


def has_unusual_heads(heads: Tensor) -> bool:
    """Tell whether heads `[B, S, H, D]` or `[T, H, D]` are so many that they may be tokens."""
    num_tokens, num_heads = heads.shape[-3:-1]
    return num_tokens <= MAX_USUAL_HEADS < num_heads


def _in_words(shapes: Collection[list[int]]) -> str:
    return " or ".join(dict.fromkeys(map(str, shapes)))


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.numel() and not logits.amax().item() < math.inf:  # true for NaN
        raise ShapeError(name, "of finite numbers or -Infinity", "Infinity, or NaN")


def shape_of(tensor: Tensor) -> str:
    """Return a shape as errors show it."""
    return str(list(tensor.shape))


def dtype_of(tensor: Tensor) -> str:
    """Return a dtype as errors show it."""
    return str(tensor.dtype).removeprefix("torch.")
