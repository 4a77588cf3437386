"""Rotary position embedding: rotate q and k, shift rotated keys, compute tables."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.angles import (
    Angles,
    FusedAngles,
    angles_at,
    inverse_factor,
    key_angles,
    shift_angles,
    token_angles,
)
from rope_core.backends import FusedRotaryWork, RotaryWork, run
from rope_core.calls import CosSin, Rotate, Rotated, Shift, Table
from rope_core.config import RopeConfig
from rope_core.gradients import without_gradients


@without_gradients
def cos_sin(call: CosSin) -> Table:
    """Return cosine and sine of the angle of every pair: float32 `[..., rotary_dim / 2]`."""
    positions, shape = call.positions, call.shape
    flat = positions.reshape(len(positions), -1) if call.has_axes else positions.reshape(-1)
    angles = angles_at(flat, call.rope, call.frequencies)
    if flat.numel() == 1:  # the cache has one token as it is
        angles = angles.map(torch.clone)
    cos, sin, scale = angles.map(lambda t: t.view(*shape, *t.shape[1:]))
    return Table(cos, sin, call.rope.attention_scaling, scale)


def run_rotate(
    call: Rotate, out: Rotated | None = None, backend: str | None = None, transposed: bool = False
) -> Rotated:
    """Rotate q and k, `[B, S, H, D]` or `[T, H, D]`, without gradients.

    Args:
        call: what to rotate; its tensors are not written to.
        out: where to write: contiguous tensors of the shapes and dtypes of `call` that share no
            memory with it, or the tensors of `call` themselves, to rotate in place. None for new
            tensors.
        backend: name of the backend; None for the first that can run the call.
        transposed: whether to multiply by the transpose of the matrix of the rotation, as its
            gradient does.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the named backend is still being built.
        ConfigError: no backend has that name.
    """
    q, k, rope, inverse = call.q, call.k, call.rope, call.inverse
    x = k if q is None else q
    assert x is not None, "a valid call has one"
    angles = token_angles(x, call.positions, call.cu_seqlens, rope, call.frequencies, backend)
    q_out = None if q is None or out is None else out.q
    k_out = None if k is None or out is None else out.k
    if q is not None and k is not None and angles.scale is None:
        work, (q_out, k_out) = rotary_work(
            (q, k), (q_out, k_out), angles, rope, inverse, transposed
        )
        return Rotated(q_out, k_out, run(work, backend)[1])
    name = ""
    if q is not None:
        work, (q_out,) = rotary_work((q,), (q_out,), angles, rope, inverse, transposed)
        name = run(work, backend)[1]
    if k is not None:
        angles = key_angles(angles)
        work, (k_out,) = rotary_work((k,), (k_out,), angles, rope, inverse, transposed)
        name = run(work, backend)[1]
    return Rotated(q_out, k_out, name)


@without_gradients
def shift(call: Shift, out: Rotated | None = None, backend: str | None = None) -> Rotated:
    """Move rotated keys `[B, S, H, D]` or `[T, H, D]` by `delta`: R_delta R_p = R_(p + delta).

    The move is a pure rotation, the same at any position of the keys, as long as the frequencies
    are the same: without attention scaling, which the keys have already, and with angles in
    float64. If frequencies change (`call.to`), or the turns of a pair do not add up, keys are
    rotated back and again.

    Arguments and errors are those of `run_rotate`. Gradients are refused with `ShapeError`.
    """
    k, rope, to = call.k, call.rope, call.to or call.rope
    k_out = None if out is None else out.k
    if to == rope and rope.is_composable:
        delta = call.delta if call.delta.ndim else call.delta.expand(k.shape[-3])
        angles = shift_angles(ragged.token_positions(k, delta, None), rope, backend)
        if rope.layout == "interleaved_to_half":  # the keys are in halves already
            rope = replace(rope, layout="half")
        work, (shifted,) = rotary_work((k,), (k_out,), key_angles(angles), rope)
        return Rotated(None, shifted, run(work, backend)[1])
    rotate_back = Rotate(None, k.float(), rope, call.positions, inverse=True)
    unrotated = run_rotate(rotate_back, None, backend)
    rotated = run_rotate(Rotate(None, unrotated.k, to, call.shifted_positions), None, backend)
    assert rotated.k is not None, "the call has k"
    shifted = rotated.k.to(k.dtype) if k_out is None else k_out.copy_(rotated.k)
    return Rotated(None, shifted, rotated.backend)


def rotary_work(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor | None],
    angles: Angles | FusedAngles,
    rope: RopeConfig,
    inverse: bool = False,
    transposed: bool = False,
) -> tuple[RotaryWork | FusedRotaryWork, list[Tensor]]:
    """Return the work that rotates `xs` by the angles of their tokens, and its outs.

    Args:
        xs: `[B, S, H, D]` or `[T, H, D]`, all of the same tokens.
        outs: as xs; None for a new tensor.
        angles: `[B * S, n]`, `[S, n]` for all rows, or `[T, n]`.
        rope: layout and rounding.
        inverse: whether to rotate back.
        transposed: whether to multiply by the transpose of the matrix.

    Raises:
        RuntimeError: rows of an out cannot be viewed as packed tokens.
    """
    num_tokens = angles[0].shape[0]
    packed_xs: list[Tensor] = []
    packed_outs: list[Tensor] = []
    written: list[Tensor] = []
    for x, out in zip(xs, outs, strict=True):
        if out is None:
            out = torch.empty_like(x, memory_format=torch.contiguous_format)
        written.append(out)
        if x.ndim == 3:
            packed_xs.append(x)
            packed_outs.append(out)
        elif x.shape[0] * x.shape[1] == num_tokens:  # of all rows of the batch
            packed_xs.append(x.flatten(0, 1))
            packed_outs.append(out.view(num_tokens, *x.shape[2:]))  # a copy would not be written
        else:  # of each row
            packed_xs.extend(x.unbind())
            packed_outs.extend(out.unbind())
    inputs, outputs = tuple(packed_xs), tuple(packed_outs)  # [T, H, D]
    # the transpose of a rotation turns to the other side, and is scaled as the rotation itself
    turns_back = inverse != (transposed and rope.is_rotation)
    if isinstance(angles, FusedAngles):
        positions, inv_freq, scaling, _ = angles
        scaling = 1 / scaling if inverse else scaling
        fused = FusedRotaryWork(inputs, positions, inv_freq, scaling, rope, turns_back, outputs)
        return fused, written
    cos, sin, scale = angles
    if inverse:
        scale = None if scale is None else 1 / scale
        if (factor := inverse_factor(rope)) != 1:
            cos, sin = cos * factor, sin * factor
    work = RotaryWork(inputs, cos, sin, scale, rope, turns_back, outputs)
    work.transposed = transposed and not rope.is_rotation
    return work, written
