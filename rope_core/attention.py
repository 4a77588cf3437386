"""Rotate q and k, then attend."""

from torch import Tensor

from rope_core import compiled
from rope_core.angles import Angles, FusedAngles, key_angles, token_angles
from rope_core.backends import ATTEND_ONLY, AttentionWork, run
from rope_core.calls import Attend, Attended
from rope_core.config import RopeConfig
from rope_core.ragged import sequence_positions
from rope_core.rotary import rotary_work
from rope_core.table_rotation import table_rotation

MAX_GROWTH = 1.5
"""Upper bound of the factor by which a rotation enlarges the largest |x|: sqrt 2, and rounding."""


def run_attend(call: Attend, backend: str | None = None) -> Attended:
    """Rotate q and k by their positions, or the side of `call.rotate`, then attend.

    There are no gradients.

    Args:
        call: q `[B, Sq, H, D]` or `[Tq, H, D]`, k and v likewise; they are not written to.
        backend: name of the backend that attends, and rotates if it can; None for the first that
            can.

    Returns:
        `out` `[B, Sq, H, Dv]` or `[Tq, H, Dv]`, `lse` without the last axis if the call has
        `return_lse`, and the name of the backend.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the named backend is still being built.
        ConfigError: no backend has that name.
    """
    rope = call.rope
    rotary_backend = None if backend in ATTEND_ONLY else backend
    q, k, v, q_angles, bounds = rotate_inputs(call, rotary_backend)
    cu_seqlens = None
    if call.cu_seqlens_q is not None and call.cu_seqlens_k is not None:
        cu_seqlens = call.cu_seqlens_q, call.cu_seqlens_k
    is_one_row = q.ndim == 3 and cu_seqlens is None
    q, k, v = (x[None] for x in (q, k, v)) if is_one_row else (q, k, v)
    work = AttentionWork(
        *(q, k, v, call.attention, call.lengths, cu_seqlens, call.sinks, _mask(call)),
        index=_index(call),
        out_dtype=call.out_dtype,
        return_lse=call.return_lse,
        bounds=bounds,
    )
    tensors, name = run(work, backend)
    out, *lse = (x[0] if is_one_row else x for x in tensors)
    if rope is not None and rope.values == "and_back" and q_angles is not None:
        (out,) = _rotate((out,), q_angles, rope, rotary_backend, inverse=True)
    return Attended(out, lse[0] if call.return_lse else None, name)


def rotate_inputs(
    call: Attend, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Angles | FusedAngles | None, tuple[float, float] | None]:
    """Return q, k and v as they attend, the angles of q, and upper bounds of |q| and |k|.

    Angles and bounds are None where they are not known.
    """
    rope = call.rope
    if rope is None:
        return call.q, call.k, call.v, None, None
    by_table = None if backend else _rotated_by_table(call, rope)
    if by_table is not None:
        return by_table[0], by_table[1], call.v, None, by_table[2]
    return *_rotated(call, rope, backend), None


def _index(call: Attend) -> tuple[Tensor, Tensor] | None:
    """Return the index of queries and keys: int64 `[B, S]`, or packed `[T]`."""
    q_index, k_index, q, k = call.q_index, call.k_index, call.q, call.k
    if q_index is None:
        return None
    if k_index is None:
        k_index = sequence_positions(k.shape[-3], call.cu_seqlens_k, k.device)
    if call.cu_seqlens_q is not None:
        return q_index, k_index
    num_rows = len(q) if q.ndim == 4 else 1
    return q_index.expand(num_rows, -1), k_index.expand(num_rows, -1)


def _mask(call: Attend) -> Tensor | None:
    """Return the mask as `[B, 1 or H, Sq, Sk]`."""
    mask, q = call.mask, call.q
    if mask is None:
        return None
    mask = mask if mask.ndim == 4 else mask[None, None]
    num_rows = len(q) if q.ndim == 4 else 1
    return mask.expand(num_rows, -1, q.shape[-3], call.k.shape[-3])


def _rotated_by_table(
    call: Attend, rope: RopeConfig
) -> tuple[Tensor, Tensor, tuple[float, float]] | None:
    """Return q and k rotated, and upper bounds of |q| and |k|; None if the table cannot be used."""
    table = table_rotation(rope) if call.rotate == "both" else None
    if table is None or rope.values != "kept" or compiled.extension() is None:
        return None
    q = table.rotate(call.q, _positions(call.q, call.q_positions, call.cu_seqlens_q))
    k = table.rotate(call.k, _positions(call.k, call.k_positions, call.cu_seqlens_k))
    if q is None or k is None:
        return None
    growth = max(1.0, MAX_GROWTH * abs(rope.attention_scaling))
    return q[0], k[0], (q[1] * growth, k[1] * growth)


def _positions(x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None) -> Tensor | None:
    """Return positions of q or k `[..., T, H, D]`, None where the tokens of x count from 0."""
    if positions is None and cu_seqlens is not None:
        return sequence_positions(x.shape[-3], cu_seqlens, x.device)
    return positions


def _rotated(
    call: Attend, rope: RopeConfig, backend: str | None
) -> tuple[Tensor, Tensor, Tensor, Angles | FusedAngles | None]:
    """Return q, k and v as they attend, and the angles of the queries, None if q is not rotated."""
    q, k, v, angles = call.q, call.k, call.v, None
    if call.rotate != "k":
        angles = token_angles(
            q, call.q_positions, call.cu_seqlens_q, rope, call.frequencies, backend
        )
    same_tokens = (
        call.rotate == "both"
        and call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and k.shape[:-2] == q.shape[:-2]
    )
    if angles is not None:
        if same_tokens and angles.scale is None and rope.values == "kept":
            q, k = _rotate((q, k), angles, rope, backend)
            return q, k, v, angles
        (q,) = _rotate((q,), angles, rope, backend)
    if call.rotate == "q":
        return q, k, v, angles
    k_angles = angles
    if k_angles is None or not same_tokens:
        k_angles = token_angles(
            k, call.k_positions, call.cu_seqlens_k, rope, call.frequencies, backend
        )
    if rope.values == "kept":
        (k,) = _rotate((k,), key_angles(k_angles), rope, backend)
    else:
        k, v = _rotate((k, v), key_angles(k_angles), rope, backend)
    return q, k, v, angles


def _rotate(
    xs: tuple[Tensor, ...],
    angles: Angles | FusedAngles,
    rope: RopeConfig,
    backend: str | None,
    inverse: bool = False,
) -> list[Tensor]:
    """Return `xs` rotated, in new tensors; another backend rotates if the named one cannot."""
    work, outs = rotary_work(xs, [None] * len(xs), angles, rope, inverse)
    run(work, backend, allow_fallback=True)
    return outs
