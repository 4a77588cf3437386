"""Rotation by position: angles, their tables, and what is done with them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.axes import Columns, summed
from rope_core.backends import Rotation, Turning, eager, fused, run
from rope_core.backends.rotation import turn_few
from rope_core.calls import CosSin, Rotate, Rotated, Shift, Table
from rope_core.config import RopeConfig
from rope_core.frequencies import xpos_zeta
from rope_core.inference import inference

TABLE_ELEMENTS = 2**20
"""Most cosines that one cached table holds; positions beyond it are computed for each call."""

TOKEN_ROWS = 4096
"""Most positions of single tokens whose cosines are kept: all layers of a model ask for one."""

SHARED_ELEMENTS = 2**18
"""From here on, rows of a batch are rotated one by one rather than given a table each."""


class Angles(NamedTuple):
    """Cosine and sine of each token's angles, times the gain: float32 `[tokens, n]`.

    `[tokens, H, n]` where frequencies are learned for each head.
    """

    cos: Tensor
    sin: Tensor
    scale: Tensor | None = None
    """xPos: what q is multiplied by and k divided by, `[tokens, n]`."""


class Products(NamedTuple):
    """Angles that a kernel computes: products of positions and frequencies."""

    positions: Tensor
    """`[tokens]`."""
    inv_freq: Tensor
    """float64 `[n]`, on the device of the positions."""
    gain: float

    @property
    def scale(self) -> None:
        """There is none: xPos has tables."""


@inference
def cos_sin(call: CosSin) -> Table:
    """Return cosine and sine of every pair's angle at the positions of `call`."""
    positions, shape = call.positions, call.shape
    flat = positions.reshape(len(positions), -1) if call.has_axes else positions.reshape(-1)
    at = angles(flat, call.rope, call.frequencies)
    cos, sin, scale = _each(lambda t: t.view(*shape, *t.shape[1:]), at)
    return Table(cos, sin, call.rope.attention_scaling, scale)


@inference
def rotate(call: Rotate, out: Rotated | None = None, backend: str | None = None) -> Rotated:
    """Rotate q and k.

    Args:
        call: what to rotate; its tensors are not written to.
        out: where to write: contiguous tensors of the shapes and dtypes of `call`, which share no
            memory with it; or the very tensors of `call`, to rotate in place. New ones where None.
        backend: name of the one to take; the first that can where None.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the backend named is still being built.
        ConfigError: there is none of that name.
    """
    if backend is None and (turned := _rotate_token(call, out)) is not None:
        return turned
    q, k, rope, inverse = call.q, call.k, call.rope, call.inverse
    q_out, k_out = (None, None) if out is None else (out.q, out.k)
    at = token_angles(call.like, call.positions, call.cu_seqlens, rope, call.frequencies, backend)
    if k is None:
        assert q is not None, "one of them is given"
        (q_out,), name = rotate_by((q,), at, rope, inverse, (q_out,), backend)
        return Rotated(q_out, None, name)
    if q is None or at.scale is not None:
        if q is not None:
            (q_out,), _ = rotate_by((q,), at, rope, inverse, (q_out,), backend)
        (k_out,), name = rotate_by((k,), of_key(at), rope, inverse, (k_out,), backend)
        return Rotated(q_out if q is not None else None, k_out, name)
    (q_out, k_out), name = rotate_by((q, k), at, rope, inverse, (q_out, k_out), backend)
    return Rotated(q_out, k_out, name)


@inference
def shift(call: Shift, out: Rotated | None = None, backend: str | None = None) -> Rotated:
    """Move rotated keys by `delta` positions: R_delta R_p = R_(p + delta).

    The move is a pure rotation, the same wherever the keys are, as long as the frequencies are:
    without the gain, which the keys have already, and with angles in float64. Across a change of
    frequencies (`call.to`), and where pairs do not turn as one, keys go back and forth again.
    Arguments and errors are those of `rotate`.
    """
    k, rope, to = call.k, call.rope, call.to or call.rope
    delta = call.delta if call.delta.ndim else call.delta.expand(k.shape[-3])
    if to == rope and rope.adds_up:
        far, steps = ragged.token_positions(k, delta, None), _steps(rope, k.device, backend)
        at = _compute(far, rope, pure=True) if steps is None else Products(far, steps, 1.0)
        written = replace(rope, layout="half") if rope.layout == "interleaved_to_half" else rope
        k_out = None if out is None else out.k
        (moved,), name = rotate_by((k,), of_key(at), written, False, (k_out,), backend)
        return Rotated(None, moved, name)
    assert call.positions is not None, "a call that exists has them"
    back = rotate(Rotate(None, k.float(), rope, call.positions, inverse=True), backend=backend)
    there = rotate(Rotate(None, back.k, to, call.moved), backend=backend)
    assert there.k is not None, "it was given"
    moved = there.k.to(k.dtype)
    moved = moved if out is None or out.k is None else out.k.copy_(moved)
    return Rotated(None, moved, there.backend)


def _rotate_token(call: Rotate, out: Rotated | None) -> Rotated | None:
    """Rotate one token as most models do; None where there are more, or it is done otherwise.

    Who would do it is known, and the way there would take longer than it.
    """
    q, k, positions = call.q, call.k, call.positions
    x = call.like
    heads, width = x.shape[-2:]
    if x.dtype is not torch.float32 or x.numel() != heads * width or not x.is_cpu:
        return None
    if call.inverse or positions is None or positions.dtype.is_floating_point:
        return None
    if positions.numel() != 1 or (row := _token_row(call.rope, int(positions.item()))) is None:
        return None
    cos, sin = row
    q_out, k_out = (None, None) if out is None else (out.q, out.k)
    if q is not None:
        q_out = torch.empty(q.shape) if q_out is None else q_out
        turn_few(q, cos, sin, False, q_out)
    if k is not None:
        k_out = torch.empty(k.shape) if k_out is None else k_out
        turn_few(k, cos, sin, False, k_out)
    return Rotated(q_out, k_out, eager.name)


def token_angles(
    x: Tensor,
    positions: Tensor | None,
    cu_seqlens: Tensor | None,
    rope: RopeConfig,
    frequencies: Tensor | None = None,
    backend: str | None = None,
) -> Angles | Products:
    """Return the angles of the tokens of `x`, batch and sequence laid end to end.

    Of one row alone, where large rows have the same positions: they take turns with its table.
    Not computed yet, where kernels will: on a GPU, or where `backend` says so.
    """
    columns, rows = rope.columns, x.shape[0] if x.ndim == 4 else 1
    if (steps := _steps(rope, x.device, backend)) is not None:
        flat = ragged.token_positions(x, positions, cu_seqlens)
        return Products(flat, steps, rope.attention_scaling)
    if x.is_cpu and (positions is None or positions.ndim == 1):
        if rows > 1 and x.numel() >= rows * SHARED_ELEMENTS and columns.num_axes == 1:
            x, rows = x[0], 1
        if rows == 1 and positions is not None:
            return angles(positions, rope, frequencies)
    if positions is None and cu_seqlens is None and frequencies is None:
        at = _counted(x.shape[-3], rope, x.device)
        return at if rows == 1 else _each(lambda t: t.repeat(rows, 1), at)
    flat = ragged.token_positions(x, positions, cu_seqlens, has_axes(x, positions, rope))
    return angles(flat, rope, frequencies)


def has_axes(x: Tensor, positions: Tensor | None, rope: RopeConfig) -> bool:
    """Tell whether the first dimension of the positions of `x` is that of axes."""
    columns = rope.columns
    if positions is None or columns.num_axes == 1:
        return rope.learned == "frequencies"
    return not columns.of_text or positions.ndim == x.ndim - 1


def angles(positions: Tensor, rope: RopeConfig, frequencies: Tensor | None = None) -> Angles:
    """Return the angles at `positions` `[tokens]` or `[A, tokens]`."""
    if (
        frequencies is not None
        or positions.dtype.is_floating_point
        or not positions.is_cpu
        or not positions.numel()
        or (positions.ndim > 1 and rope.columns.coupled)
    ):
        return _compute(positions, rope, frequencies)
    one = positions.numel() == 1
    first, last = (int(positions.item()),) * 2 if one else map(int, positions.aminmax())
    rows = _rows(last + 1, rope)
    if first < 0 or rows is None or rows > max(1024, 64 * positions.shape[-1]):
        return _compute(positions, rope)
    table = _table(rope, rows)
    if positions.ndim > 1:  # each column from the row of its own axis
        axis = rope.columns.axis
        assert axis is not None, "there are several"
        whole = positions if positions.dtype is torch.int64 else positions.long()
        own = whole.index_select(0, axis).mT
        return Angles(table.cos.gather(0, own), table.sin.gather(0, own))
    if one:
        return _each(lambda t: t[first : last + 1], table)
    return _each(lambda t: t.index_select(0, positions), table)


def of_key(at: Angles | Products) -> Angles | Products:
    """Return the angles of keys, given those of queries: xPos scales them the other way."""
    return (
        at._replace(scale=1 / at.scale) if isinstance(at, Angles) and at.scale is not None else at
    )


def rotate_by(
    xs: Sequence[Tensor],
    at: Angles | Products,
    rope: RopeConfig,
    inverse: bool,
    outs: Sequence[Tensor | None],
    backend: str | None = None,
    *,
    or_another: bool = False,
) -> tuple[list[Tensor], str]:
    """Rotate heads of the same tokens by their angles into `outs`, or into new tensors.

    Returns the outs and the name of the backend; `or_another`: should the one named decline.
    """
    made = [
        torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
        for x, out in zip(xs, outs, strict=True)
    ]
    if isinstance(at, Products):
        gain = 1 / at.gain if inverse else at.gain
        num_tokens = len(at.positions)
        tokens, turned = _packed(xs, num_tokens), _packed(made, num_tokens, True)
        turning = Turning(tokens, at.positions, at.inv_freq, gain, rope, inverse, turned)
        return made, run(turning, backend, or_another=or_another)[1]
    cos, sin, scale = at
    if inverse:
        scale = None if scale is None else 1 / scale
        if rope.attention_scaling != 1 and rope.is_rotation:
            unscaled = rope.attention_scaling**-2
            cos, sin = cos * unscaled, sin * unscaled
    num_tokens = cos.shape[0]
    work = Rotation(
        _packed(xs, num_tokens), cos, sin, scale, rope, inverse, _packed(made, num_tokens, True)
    )
    return made, run(work, backend, or_another=or_another)[1]


def _packed(xs: Sequence[Tensor], num_tokens: int, written: bool = False) -> tuple[Tensor, ...]:
    """Return tensors `[T, H, D]`, of all rows of a batch or one for each.

    Raises:
        RuntimeError: one that will be written lies such that only a copy of it is of that shape.
    """
    packed: list[Tensor] = []
    for x in xs:
        if x.ndim == 3:
            packed.append(x)
        elif x.shape[0] * x.shape[1] == num_tokens:
            packed.append(x.view(num_tokens, *x.shape[2:]) if written else x.flatten(0, 1))
        else:
            packed.extend(x.unbind())
    return tuple(packed)


def _counted(length: int, rope: RopeConfig, device: torch.device) -> Angles:
    rows = _rows(length, rope) if device.type == "cpu" else None
    if rows is None:
        return _compute(torch.arange(length, device=device), rope)
    return _each(lambda t: t[:length], _table(rope, rows))


def _each(take: Callable[[Tensor], Tensor], at: Angles) -> Angles:
    return Angles(take(at.cos), take(at.sin), None if at.scale is None else take(at.scale))


def _rows(needed: int, rope: RopeConfig) -> int | None:
    """Return the length of the table that has `needed` positions, None where none may be."""
    rows = max(256, 1 << (needed - 1).bit_length()) if needed > 0 else 256
    return rows if rows * rope.half <= TABLE_ELEMENTS else None


@lru_cache(maxsize=16)
def _table(rope: RopeConfig, rows: int) -> Angles:
    return _compute(torch.arange(rows), rope)


def _steps(rope: RopeConfig, device: torch.device, backend: str | None) -> Tensor | None:
    """Return the frequencies where a kernel computes the angles, else None."""
    asked = backend == fused.name or (backend is None and not fused.only_named(device))
    return _frequencies(rope, device) if asked and fused.unavailable(device) is None else None


@lru_cache(maxsize=64)
def _frequencies(rope: RopeConfig, device: torch.device) -> Tensor | None:
    """Return float64 `[half]` on the device; None where angles are more than products."""
    if not fused.computes_angles(rope):
        return None
    inv_freq = rope.columns.inv_freq.to(device)
    return -inv_freq if rope.negative else inv_freq.contiguous()


@lru_cache(maxsize=TOKEN_ROWS)
def _token_row(rope: RopeConfig, at: int) -> tuple[Tensor, Tensor] | None:
    """Return cosine and sine `[half]` at a position; None where `_rotate_token` has more to do."""
    usual = rope.layout == "half" and rope.rounding == "once" and rope.blocks == 1
    whole = rope.rotary_dim == rope.head_dim and rope.axes is None and rope.learned is None
    if not usual or not whole or rope.rope_type == "xpos":
        return None
    row = angles(torch.tensor([at]), rope)
    return row.cos[0].clone(), row.sin[0].clone()  # a view would keep its whole table


def _compute(
    positions: Tensor, rope: RopeConfig, frequencies: Tensor | None = None, *, pure: bool = False
) -> Angles:
    """Return the angles at `positions` `[tokens]` or `[A, tokens]`; `pure`: in float64, no gain."""
    columns = _columns(rope, frequencies, positions.device)
    dtype = torch.float64 if pure else columns.inv_freq.dtype
    numbers = positions.to(dtype)
    rows = numbers.expand(columns.num_axes, -1) if numbers.ndim == 1 else numbers
    radians = columns.angles(rows, columns)
    if rope.rounding == "complex" and not pure:
        turn = torch.polar(torch.ones_like(radians), radians)
        cos, sin = turn.real, turn.imag
    else:
        cos, sin = radians.cos(), radians.sin()
    if rope.attention_scaling != 1 and not pure:
        cos, sin = cos * rope.attention_scaling, sin * rope.attention_scaling
    if rope.negative:
        sin = -sin
    return Angles(cos.float(), sin.float(), _xpos_scale(numbers, rope, pure))


def _columns(rope: RopeConfig, frequencies: Tensor | None, device: torch.device) -> Columns:
    """Return the columns of a call, on the device of its positions."""
    if frequencies is not None and rope.learned == "frequencies":
        return summed(frequencies.to(device), rope.rotary_dim)
    columns = rope.columns if device.type == "cpu" else _device_columns(rope, device)
    if frequencies is None:
        return columns
    factor = frequencies.to(columns.inv_freq).exp()
    return replace(columns, inv_freq=columns.inv_freq * factor)


@lru_cache(maxsize=256)
def _device_columns(rope: RopeConfig, device: torch.device) -> Columns:
    """Return the columns of a rope on a device, copied once, as a copy makes the host wait."""
    columns = rope.columns
    axis = None if columns.axis is None else columns.axis.to(device)
    return replace(columns, inv_freq=columns.inv_freq.to(device), axis=axis)


@lru_cache(maxsize=64)
def _device_zeta(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the base of each pair's scale in xPos, on a device."""
    return xpos_zeta(dim, dtype).to(device)


def _xpos_scale(positions: Tensor, rope: RopeConfig, pure: bool) -> Tensor | None:
    if rope.rope_type != "xpos":
        return None
    given: dict[str, Any] = dict(rope.parameters)
    centre = 0 if pure else given.get("length", 0) // 2
    power = (positions - centre) / given.get("scale_base", 512.0)
    dim = rope.frequency_dim or rope.rotary_dim
    zeta = _device_zeta(dim, positions.dtype, positions.device)
    scale: Tensor = zeta ** power[:, None]
    return scale.float()
