"""Rotation in plain PyTorch: the general operator, and the fast forms of its two usual layouts."""

import torch
from torch import Tensor

from rope_core.backends.work import Rotation
from rope_core.layouts import halves, neighbours, partners, quarter_turn, spread

CHUNK_ELEMENTS = 5 * 2**14
"""Elements rotated at a time: they stay in a core's cache."""

DEVICE_ELEMENTS = 2**26
"""Elements rotated at a time on a device: few launches, and scratch of 256 MiB in float32."""

COMPLEX_ELEMENTS = 2**23
"""Those of a product of complex numbers, which reads and writes its memory once."""

SERIAL_ELEMENTS = 2**15 - 1
"""Most numbers of an operator that torch, where it has several threads, divides among none: they
wait for each other longer than they work."""

COMPLEX_LANES = 16
"""Complex numbers that torch multiplies at a time; those that are left over it rounds otherwise."""


def rotate(work: Rotation) -> None:
    """Do `work`, some tokens at a time."""
    turns: list[Tensor] = []
    for x, out in zip(work.xs, work.outs, strict=True):
        _rotate(work, x, out, turns)


def _rotate(work: Rotation, x: Tensor, out: Tensor, turns: list[Tensor]) -> None:
    """Rotate `x` of `work` into `out`; `turns` keeps what tables become, for the other tensors."""
    rope = work.rope
    head_dim = x.shape[-1]
    if rope.rotary_dim < head_dim:
        start = head_dim - rope.rotary_dim if rope.trailing else 0
        end = start + rope.rotary_dim
        for kept in (slice(start), slice(end, None)):
            out[..., kept].copy_(x[..., kept])
        x, out = x[..., start:end], out[..., start:end]
    fast = _FAST.get(rope.layout)
    if (
        fast is not None
        and rope.rounding == "once"
        and rope.blocks == 1
        and work.scale is None
        and work.cos.ndim == 2
        and rope.axes != "xdrope"
    ):
        fast(x, work.cos, work.sin, work.inverse, out, turns)
        return
    step = _step(x, CHUNK_ELEMENTS)
    if x.shape[0] <= step:
        _rotate_stepwise(x, work.cos, work.sin, work.scale, work, out)
        return
    for first in range(0, x.shape[0], step):
        rows = slice(first, first + step)
        scale = None if work.scale is None else work.scale[rows]
        _rotate_stepwise(x[rows], work.cos[rows], work.sin[rows], scale, work, out[rows])


def _step(x: Tensor, elements: int, in_each: int = 1) -> int:
    """Return how many tokens of `x` have about as many elements; operators have `in_each` fewer."""
    if not x.is_cpu:
        elements = DEVICE_ELEMENTS
    elif torch.get_num_threads() > 1:
        elements = min(elements, SERIAL_ELEMENTS * in_each)
    return max(1, elements // (x.shape[1] * x.shape[2]))


def _rotate_stepwise(
    x: Tensor, cos: Tensor, sin: Tensor, scale: Tensor | None, work: Rotation, out: Tensor
) -> None:
    """Rotate in any layout, each step rounded where the config says: as transformers does."""
    rope = work.rope
    layout, blocks = rope.layout, rope.blocks
    exact = work.inverse and not rope.is_rotation  # nearly singular pairs enlarge each rounding
    if rope.rounding in ("tables", "activation") and not exact:
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    work_dtypes = {"activation": x.dtype, "float64": torch.float64}
    dtype = torch.float64 if exact else work_dtypes.get(rope.rounding, torch.float32)
    tables = [t if t.ndim == 3 else t[:, None] for t in (cos, sin, scale) if t is not None]
    x = x.to(dtype)
    width = rope.rotary_dim // blocks
    x = x.view(*x.shape[:-1], blocks, width)
    if layout == "interleaved_to_half" and not work.inverse:
        x = halves(x)
    c, s, *scales = (
        spread(t.to(dtype).view(*t.shape[:-1], blocks, t.shape[-1] // blocks), layout, width)
        for t in tables
    )
    if work.inverse:
        c, s = _inverted(c, s, work)
    kept, turned = x * c, quarter_turn(x, layout) * s
    for z in scales:
        kept, turned = kept * z, turned * z
    y = kept + turned
    if layout == "interleaved_to_half" and work.inverse:
        y = neighbours(y)
    out.copy_(y.flatten(-2))


def _inverted(c: Tensor, s: Tensor, work: Rotation) -> tuple[Tensor, Tensor]:
    """Return the tables of the inverse of each pair's matrix [[c, -s], [s', c']]."""
    if work.rope.is_rotation:  # the caller has divided by the square of the gain
        return c, -s
    layout = work.rope.layout
    other_c, other_s = partners(c, layout), partners(s, layout)
    determinant = c * other_c + s * other_s
    return other_c / determinant, -s / determinant


def _rotate_halves(
    x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor, _: list[Tensor]
) -> None:
    tokens, heads, width = x.shape
    if not tokens:
        return
    step = _step(x, CHUNK_ELEMENTS)
    wide = out.dtype is torch.float32
    if tokens <= step:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        if wide:
            turn_few(x, cos, sin, inverse, out)
            return
        x = x.float()
        few = torch.empty_like(x)
        turn_few(x, cos, sin, inverse, few)
        out.copy_(few)
        return
    sign = -1 if inverse else 1
    cos, sin = cos[:, None, None], sin[:, None]
    pairs, turned = x.view(tokens, heads, 2, width // 2), out.view(tokens, heads, 2, width // 2)
    aside = not wide or x.data_ptr() == out.data_ptr()
    if not aside:
        every = (pairs, cos, sin, turned, *pairs.unbind(2), *turned.unbind(2))
        for some, c, s, into, x1, x2, out1, out2 in zip(
            *(torch.split(t, step) for t in every), strict=True
        ):
            torch.mul(some, c, out=into)
            out1.addcmul_(x2, s, value=-sign)
            out2.addcmul_(x1, s, value=sign)
        return
    held = torch.empty((2, min(step, tokens), heads, 2, width // 2), device=x.device)
    before, after = held.unbind()
    for some, c, s, into in zip(
        *(torch.split(t, step) for t in (pairs, cos, sin, turned)), strict=True
    ):
        if some.shape[0] < before.shape[0]:
            before, after = held[:, : some.shape[0]].unbind()
        x1, x2 = before.unbind(2)
        made = into if wide else after
        out1, out2 = made.unbind(2)
        before.copy_(some)
        torch.mul(before, c, out=made)
        out1.addcmul_(x2, s, value=-sign)
        out2.addcmul_(x1, s, value=sign)
        if not wide:
            into.copy_(made)


def turn_few(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    """Rotate a few tokens' heads, float32 in halves, by angles that fit them: `[T, 1, half]`."""
    x1, x2 = x.chunk(2, -1)
    out1, out2 = out.chunk(2, -1)
    if out.data_ptr() == x.data_ptr():
        x1, x2 = x1.clone(), x2.clone()
    torch.mul(x1, cos, out=out1)
    torch.mul(x2, cos, out=out2)
    sign = -1 if inverse else 1
    out1.addcmul_(x2, sin, value=-sign)
    out2.addcmul_(x1, sin, value=sign)


def _rotate_pairs(
    x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor, turns: list[Tensor]
) -> None:
    tokens, heads, width = x.shape
    if not tokens:
        return
    # the shape alone decides how: where tensors lie in memory must not change a bit
    if (width // 2) % COMPLEX_LANES or heads * width > 2 * SERIAL_ELEMENTS:
        step = _step(x, CHUNK_ELEMENTS)
        for some, c, s, into in zip(
            *(torch.split(t, step) for t in (x, cos, sin, out)), strict=True
        ):
            _rotate_neighbours(some, c, s, inverse, into)
        return
    pairs, turned = x.view(tokens, heads, width // 2, 2), out.view(tokens, heads, width // 2, 2)
    aside = out.dtype is not torch.float32 or not (_is_complex(pairs) and _is_complex(turned))
    step = _step(x, CHUNK_ELEMENTS) if aside else _step(x, COMPLEX_ELEMENTS, 2)
    if tokens <= step:
        if not turns:
            turns.append(torch.complex(cos, -sin if inverse else sin).unsqueeze(1))
        turn = turns[0]
        if aside:
            numbers = torch.view_as_complex(
                pairs.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            )
            turned.copy_(torch.view_as_real(numbers.mul_(turn)))
        else:
            torch.mul(torch.view_as_complex(pairs), turn, out=torch.view_as_complex(turned))
        return
    most = min(step, tokens)
    some_turns = torch.empty((most, 1, width // 2), dtype=torch.complex64, device=x.device)
    if aside:
        held = torch.empty((most, heads, width // 2, 2), device=x.device)
    else:
        pairs, turned = torch.view_as_complex(pairs), torch.view_as_complex(turned)
    for some, c, s, into in zip(
        *(torch.split(t, step) for t in (pairs, cos, sin, turned)), strict=True
    ):
        turn = some_turns[: some.shape[0]]
        torch.complex(c[:, None], -s[:, None] if inverse else s[:, None], out=turn)
        if aside:
            wide = held[: some.shape[0]].copy_(some)
            numbers = torch.view_as_complex(wide)
            torch.mul(numbers, turn, out=numbers)
            into.copy_(wide)
        else:
            torch.mul(some, turn, out=into)


def _rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    """Rotate without a product of complex numbers, whose rounding differs at the end of a row."""
    wide = x.float()
    pairs = wide.view(*wide.shape[:-1], wide.shape[-1] // 2, 2)
    if not _is_complex(pairs):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    quarter = torch.view_as_real(torch.view_as_complex(pairs) * 1j).flatten(-2)  # (-x2, x1), exact
    cos_cos, sin_sin = (torch.stack((t, t), -1).flatten(-2)[:, None] for t in (cos, sin))
    turned = wide * cos_cos
    turned.addcmul_(quarter, sin_sin, value=-1 if inverse else 1)
    out.copy_(turned)


def _is_complex(pairs: Tensor) -> bool:
    """Tell whether pairs `[..., 2]` lie as complex numbers do."""
    *strides, last = pairs.stride()
    return last == 1 and not (pairs.storage_offset() % 2 or any(stride % 2 for stride in strides))


_FAST = {"half": _rotate_halves, "interleaved": _rotate_pairs}
