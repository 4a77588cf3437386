"""Rotation of pairs by operators of torch, where the compiled one is missing."""

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK_ELEMENTS = 5 * 2**14
"""Elements rotated at a time: they stay in the cache of a core."""

DEVICE_ELEMENTS = 2**26
"""Elements rotated at a time on a device: few launches, and scratch of 256 MiB in float32."""

SERIAL_ELEMENTS = 2**15 - 1
"""Most elements that torch works on in one thread: dividing them would take longer."""


def rotate(
    out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool
) -> None:
    """Rotate `x` `[T, H, 2 * n]` into `out`, as many tokens at a time as the cache holds.

    Args:
        out: of the shape and dtype of x, or x itself.
        x: float32, bfloat16 or float16.
        cos: float32 `[T, n]`.
        sin: as cos.
        interleaved: whether channels 2 i and 2 i + 1 are a pair, or channels i and n + i.
        inverse: whether to rotate back.
    """
    sign = -1 if inverse else 1
    num_tokens, num_heads, width = x.shape
    dim, pair_shape = (3, (width // 2, 2)) if interleaved else (2, (2, width // 2))
    pairs, rotated = (t.view(num_tokens, num_heads, *pair_shape) for t in (x, out))
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, n]
    is_float32 = out.dtype is torch.float32
    reads_x = is_float32 and x.data_ptr() != out.data_ptr()
    step = tokens_at_a_time(x, CHUNK_ELEMENTS)
    for x_part, c, s, out_part in split_tokens(step, pairs, cos, sin, rotated):
        source = x_part if reads_x else x_part.to(torch.float32, copy=True)
        result = out_part if is_float32 else torch.empty_like(source)
        torch.mul(source, c.unsqueeze(dim), out=result)
        x1, x2 = source.unbind(dim)
        out1, out2 = result.unbind(dim)
        out1.addcmul_(x2, s, value=-sign)
        out2.addcmul_(x1, s, value=sign)
        if not is_float32:
            out_part.copy_(result)


def tokens_at_a_time(x: Tensor, num_elements: int) -> int:
    """Return how many tokens of `x` `[T, H, D]` have about `num_elements`."""
    if not x.is_cpu:
        num_elements = DEVICE_ELEMENTS
    elif torch.get_num_threads() > 1:
        num_elements = min(num_elements, SERIAL_ELEMENTS)
    return max(1, num_elements // (x.shape[1] * x.shape[2]))


def split_tokens(step: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return the parts of `step` tokens of tensors `[T, ...]`."""
    if tensors[0].shape[0] <= step:
        return [tensors]
    return zip(*(torch.split(t, step) for t in tensors), strict=True)
