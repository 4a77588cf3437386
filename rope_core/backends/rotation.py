"""Rotation in plain PyTorch: the general operator, and the fast forms of its two usual layouts."""

import torch
from torch import Tensor

from rope_core.backends.work import Rotation
from rope_core.layouts import halves, neighbours, partners, quarter_turn, spread

CHUNK_ELEMENTS = 2**16 - 1
"""Elements rotated at a time: they stay in a core's cache, and torch divides none among threads."""

COMPLEX_LANES = 16
"""Complex numbers that torch multiplies at a time; those that are left over it rounds otherwise."""


def rotate(work: Rotation, x: Tensor, out: Tensor) -> None:
    """Rotate `x` of `work` into `out`, some tokens at a time."""
    rope = work.rope
    tokens, heads, head_dim = x.shape
    if rope.rotary_dim < head_dim:
        start = head_dim - rope.rotary_dim if rope.trailing else 0
        end = start + rope.rotary_dim
        for kept in (slice(start), slice(end, None)):
            out[..., kept].copy_(x[..., kept])
        x, out = x[..., start:end], out[..., start:end]
    usual = rope.layout in ("half", "interleaved") and rope.blocks == 1 and work.cos.ndim == 2
    fused = rope.rounding == "once" and usual and work.scale is None and rope.axes != "xdrope"
    rotate_some = _rotate_fused if fused else _rotate_stepwise
    step = max(1, CHUNK_ELEMENTS // (heads * head_dim))
    if tokens <= step:
        rotate_some(x, work.cos, work.sin, work.scale, work, out)
        return
    for first in range(0, tokens, step):
        rows = slice(first, first + step)
        scale = None if work.scale is None else work.scale[rows]
        rotate_some(x[rows], work.cos[rows], work.sin[rows], scale, work, out[rows])


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


def _rotate_fused(
    x: Tensor, cos: Tensor, sin: Tensor, scale: Tensor | None, work: Rotation, out: Tensor
) -> None:
    turn = _rotate_interleaved if work.rope.layout == "interleaved" else _rotate_half
    if out.dtype is torch.float32:
        turn(x, cos, sin, work.inverse, out)
    else:
        x = x.float()
        rotated = torch.empty_like(x)
        turn(x, cos, sin, work.inverse, rotated)
        out.copy_(rotated)


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    sign = -1 if inverse else 1
    cos, sin = torch.cat((cos, cos), -1).unsqueeze(1), sin.unsqueeze(1)  # [T, 1, D], [T, 1, half]
    x1, x2 = x.chunk(2, -1)
    torch.mul(x, cos, out=out)
    out1, out2 = out.chunk(2, -1)
    out1.addcmul_(x2, sin, value=-sign)
    out2.addcmul_(x1, sin, value=sign)


def _rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    # the shape alone decides how: where tensors lie in memory must not change a bit
    if cos.shape[-1] % COMPLEX_LANES or x.numel() > CHUNK_ELEMENTS:
        _rotate_neighbours(x, cos, sin, inverse, out)
        return
    turn = torch.complex(cos, -sin if inverse else sin)[:, None]  # [T, 1, half]
    out_pairs = _pairs(out)
    if _lie_as_complex(out_pairs):
        torch.mul(_as_complex(x), turn, out=torch.view_as_complex(out_pairs))
    else:
        out_pairs.copy_(torch.view_as_real(_as_complex(x) * turn))


def _rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool, out: Tensor) -> None:
    """Rotate without a product of complex numbers, whose rounding differs at the end of a row."""
    quarter = torch.view_as_real(_as_complex(x) * 1j).flatten(-2)  # (-x2, x1), exact
    cos_cos, sin_sin = (torch.stack((t, t), -1).flatten(-2)[:, None] for t in (cos, sin))
    torch.mul(x, cos_cos, out=out)
    out.addcmul_(quarter, sin_sin, value=-1 if inverse else 1)


def _as_complex(x: Tensor) -> Tensor:
    pairs = _pairs(x)
    if not _lie_as_complex(pairs):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(pairs)


def _pairs(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], x.shape[-1] // 2, 2)


def _lie_as_complex(pairs: Tensor) -> bool:
    *strides, last = pairs.stride()
    return last == 1 and not any(stride % 2 for stride in (*strides, pairs.storage_offset()))
