"""Rotation by position."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.angles import (
    Angles,
    Products,
    _compute,
    _each,
    _steps,
    _token_row,
    angles,
    of_key,
    token_angles,
)
from rope_core.backends import Rotation, Turning, eager, run
from rope_core.backends.eager_rotary import turn_few
from rope_core.calls import CosSin, Rotate, Rotated, Shift, Table
from rope_core.config import RopeConfig
from rope_core.inference import inference


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
