"""Rotation in plain PyTorch: the general operator, and fast ones for the two usual layouts."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rope_core.backends.work import RotaryWork
from rope_core.layouts import deinterleave, expand_to_channels, interleave, rotate_half, swap_pairs

CHUNK_ELEMENTS = 5 * 2**14
"""Elements rotated at a time: they stay in the cache of a core."""

DEVICE_ELEMENTS = 2**26
"""Elements rotated at a time on a device: few launches, and scratch of 256 MiB in float32."""

COMPLEX_ELEMENTS = 2**23
"""Elements of one product of complex numbers, which reads and writes its memory once."""

SERIAL_ELEMENTS = 2**15 - 1
"""Most elements that torch works on in one thread: dividing them would take longer."""

COMPLEX_LANES = 16
"""Complex numbers that torch multiplies at a time. It rounds the remainder differently."""


def rotary_operator(work: RotaryWork) -> Callable[[RotaryWork], None]:
    """Return the fastest operator of this module for `work`."""
    rope = work.rope
    is_general = (
        rope.rounding != "once"
        or rope.blocks != 1
        or work.scale is not None
        or work.cos.ndim != 2
        or rope.axes == "xdrope"
    )
    if rope.layout == "half" and not is_general:
        is_small = sum(map(torch.numel, work.xs)) <= SERIAL_ELEMENTS
        return rotate_small if is_small else rotate_halves
    return rotate_pairs if rope.layout == "interleaved" and not is_general else rotate_general


def rotate_small(work: RotaryWork) -> None:
    """Rotate a few tokens in layout "half", all tensors at once.

    Calls of operators take most of the time of a small work, so q and k share them.
    """
    xs, outs = _rotated_channels(work)
    x = xs[0] if len(xs) == 1 else torch.cat(xs, 1)  # [T, H, D], H of all tensors
    x = x if x.dtype is torch.float32 else x.float()
    num_tokens, num_heads, width = x.shape
    x = x.view(num_tokens, num_heads, 2, width // 2)
    cos, sin = work.cos, work.sin
    if num_tokens != 1:  # one token broadcasts as it is
        cos, sin = cos[:, None, None], sin[:, None]
    rotated = x * cos
    x1, x2 = x.unbind(2)
    out1, out2 = rotated.unbind(2)
    sign = -1 if work.inverse else 1
    out1.addcmul_(x2, sin, value=-sign)
    out2.addcmul_(x1, sin, value=sign)
    parts = rotated.flatten(2).split_with_sizes([out.shape[1] for out in outs], 1)
    torch._foreach_copy_(outs, parts)


def rotate_halves(work: RotaryWork) -> None:
    """Rotate layout "half", as many tokens at a time as the cache holds."""
    sign = -1 if work.inverse else 1
    cos, sin = work.cos[:, None, None], work.sin[:, None]  # [T, 1, 1, n], [T, 1, n]
    for x, out in zip(*_rotated_channels(work), strict=True):
        num_tokens, num_heads, width = x.shape
        step = _tokens_at_a_time(x, CHUNK_ELEMENTS)
        is_float32 = out.dtype is torch.float32
        pairs, rotated = (t.view(num_tokens, num_heads, 2, width // 2) for t in (x, out))
        if is_float32 and x.data_ptr() != out.data_ptr():
            views = pairs, *pairs.unbind(2), cos, sin, rotated, *rotated.unbind(2)
            for x_part, x1, x2, c, s, out_part, out1, out2 in _split(step, *views):
                torch.mul(x_part, c, out=out_part)
                out1.addcmul_(x2, s, value=-sign)
                out2.addcmul_(x1, s, value=sign)
            continue
        for x_part, c, s, out_part in _split(step, pairs, cos, sin, rotated):
            copy = x_part.to(torch.float32, copy=True)
            result = out_part if is_float32 else torch.empty_like(copy)
            torch.mul(copy, c, out=result)
            x1, x2 = copy.unbind(2)
            out1, out2 = result.unbind(2)
            out1.addcmul_(x2, s, value=-sign)
            out2.addcmul_(x1, s, value=sign)
            if not is_float32:
                out_part.copy_(result)


def rotate_pairs(work: RotaryWork) -> None:
    """Rotate layout "interleaved": each pair is a complex number, multiplied by e^(i angle)."""
    cos, sin = work.cos, -work.sin if work.inverse else work.sin
    phasors = torch.complex(cos, sin)[:, None]  # [T, 1, n]
    for x, out in zip(*_rotated_channels(work), strict=True):
        num_tokens, num_heads, width = x.shape
        step = _tokens_at_a_time(x, CHUNK_ELEMENTS)
        # the shape alone decides: where tensors lie in memory must not change a bit
        if (width // 2) % COMPLEX_LANES or num_heads * width > 2 * SERIAL_ELEMENTS:
            for x_part, c, s, out_part in _split(step, x, cos, sin, out):
                _rotate_neighbours(x_part, c, s, out_part)
            continue
        pairs, rotated = (t.view(num_tokens, num_heads, width // 2, 2) for t in (x, out))
        if out.dtype is torch.float32 and _is_complex(pairs) and _is_complex(rotated):
            pairs, rotated = torch.view_as_complex(pairs), torch.view_as_complex(rotated)
            step = _tokens_at_a_time(x, COMPLEX_ELEMENTS, 2)
            for x_part, phasor, out_part in _split(step, pairs, phasors, rotated):
                torch.mul(x_part, phasor, out=out_part)
            continue
        for x_part, phasor, out_part in _split(step, pairs, phasors, rotated):
            copy = x_part.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            torch.view_as_complex(copy).mul_(phasor)
            out_part.copy_(copy)


def _rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate `[T, H, D]` by real products, which round the last channels as all others."""
    x = x.float()
    pairs = x.view(*x.shape[:-1], x.shape[-1] // 2, 2)
    if not _is_complex(pairs):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    swapped = torch.view_as_real(torch.view_as_complex(pairs) * 1j).flatten(-2)  # (-x2, x1), exact
    cos, sin = (torch.stack((t, t), -1).flatten(-2)[:, None] for t in (cos, sin))  # [T, 1, D]
    out.copy_((x * cos).addcmul_(swapped, sin))


def _is_complex(pairs: Tensor) -> bool:
    """Tell whether pairs `[..., 2]` lie in memory as complex numbers do."""
    *strides, last = pairs.stride()
    return last == 1 and not (pairs.storage_offset() % 2 or any(stride % 2 for stride in strides))


def rotate_general(work: RotaryWork) -> None:
    """Rotate any layout. Each step is rounded as the config says, as transformers does."""
    rope, layout, inverse = work.rope, work.rope.layout, work.inverse
    # the inverse of nearly singular pairs enlarges each rounding error
    exact = inverse and not rope.is_rotation
    dtypes = {"activation": work.xs[0].dtype, "float64": torch.float64}
    dtype = torch.float64 if exact else dtypes.get(rope.rounding, torch.float32)
    round_tables = rope.rounding in ("tables", "activation") and not exact
    tables = [t for t in (work.cos, work.sin, work.scale) if t is not None]
    width = rope.rotary_dim // rope.blocks
    for x, out in zip(*_rotated_channels(work), strict=True):
        for x_part, out_part, *parts in _split(
            _tokens_at_a_time(x, CHUNK_ELEMENTS), x, out, *tables
        ):
            if round_tables:
                parts[:2] = (t.to(x.dtype) for t in parts[:2])
            c, s, *scales = (_to_channels(t.to(dtype), work, width) for t in parts)
            if inverse:
                c, s = _inverted(c, s, work)
            y = x_part.to(dtype)
            y = y.view(*y.shape[:-1], rope.blocks, width)  # [T, H, blocks, width]
            if layout == "interleaved_to_half" and not inverse:
                y = deinterleave(y)
            cos_part, sin_part = y * c, rotate_half(y, layout) * s
            for scale in scales:
                cos_part, sin_part = cos_part * scale, sin_part * scale
            y = cos_part + sin_part
            if layout == "interleaved_to_half" and inverse:
                y = interleave(y)
            out_part.copy_(y.flatten(-2))


def _to_channels(table: Tensor, work: RotaryWork, width: int) -> Tensor:
    """Return a table `[T, n]` or `[T, H, n]` as `[T, 1 or H, blocks, width]`."""
    table = table if table.ndim == 3 else table[:, None]
    blocks = work.rope.blocks
    table = table.view(*table.shape[:-1], blocks, table.shape[-1] // blocks)
    return expand_to_channels(table, work.rope.layout, width)


def _inverted(c: Tensor, s: Tensor, work: RotaryWork) -> tuple[Tensor, Tensor]:
    """Return the tables of the inverse of each pair's matrix [[c, -s], [s', c']]."""
    if work.rope.is_rotation:  # cos and sin are divided by the square of the scaling already
        return c, -s
    layout = work.rope.layout
    other_c, other_s = swap_pairs(c, layout), swap_pairs(s, layout)
    determinant = c * other_c + s * other_s
    return other_c / determinant, -s / determinant


def _rotated_channels(work: RotaryWork) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Copy the channels that pass through; return the others of xs and outs, `[T, H, D]`."""
    rope = work.rope
    if rope.rotary_dim == rope.head_dim:
        return work.xs, work.outs
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    end = start + rope.rotary_dim
    for x, out in zip(work.xs, work.outs, strict=True):
        for kept in (slice(start), slice(end, None)):
            out[..., kept].copy_(x[..., kept])
    xs, outs = (tuple(t[..., start:end] for t in ts) for ts in (work.xs, work.outs))
    return xs, outs


def _tokens_at_a_time(x: Tensor, num_elements: int, elements_per_number: int = 1) -> int:
    """Return how many tokens of `x` `[T, H, D]` have about `num_elements`."""
    if not x.is_cpu:
        num_elements = DEVICE_ELEMENTS
    elif torch.get_num_threads() > 1:
        num_elements = min(num_elements, SERIAL_ELEMENTS * elements_per_number)
    return max(1, num_elements // (x.shape[1] * x.shape[2]))


def _split(step: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return the parts of `step` tokens of tensors `[T, ...]`."""
    if tensors[0].shape[0] <= step:
        return [tensors]
    return zip(*(torch.split(t, step) for t in tensors), strict=True)
