"""Rotate tensors, or a call that is a value. The rotation can be differentiated."""

from typing import Any, Required, TypedDict, Unpack, overload

import torch
from torch import Tensor

from rope_core.calls import Rotate, Rotated
from rope_core.checks import not_a_tensor
from rope_core.differentiable import rotate_with_gradients
from rope_core.errors import ConfigError, brief
from rope_core.functional.arguments import (
    MISSING,
    Numbers,
    as_tensor,
    refuse_arguments,
    resolve_for,
    warn_of_heads_first,
)
from rope_core.rotary import run_rotate
from rope_core.sources import RopeSource


class RotateOptions(TypedDict, total=False):
    """Arguments of `rotate` beside q and k; see there."""

    rope: Required[RopeSource]
    positions: Numbers | None
    cu_seqlens: Numbers | None
    inverse: bool
    frequencies: Tensor | None
    backend: str | None


@overload
def rotate(call: Rotate, out: Rotated | None = None, backend: str | None = None, /) -> Rotated: ...


@overload
def rotate(
    call: Rotate, /, *, out: Rotated | None = None, backend: str | None = None
) -> Rotated: ...


@overload
def rotate(
    q: Tensor,
    k: Tensor,
    **options: Unpack[RotateOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def rotate(
    q: Tensor,
    k: None = None,
    **options: Unpack[RotateOptions],
) -> Tensor: ...


@overload
def rotate(
    q: None,
    k: Tensor,
    **options: Unpack[RotateOptions],
) -> Tensor: ...


def rotate(
    q: Any,
    k: Any = None,
    backend: str | None = None,
    *,
    rope: Any = MISSING,
    positions: Numbers | None = None,
    cu_seqlens: Numbers | None = None,
    inverse: bool = False,
    frequencies: Tensor | None = None,
    out: Rotated | None = None,
) -> Any:
    """Rotate q and k by the positions of their tokens.

    `rotate(q, k, positions=..., rope=...)` returns the pair of rotated tensors, of the shapes and
    dtypes of q and k. `rotate(q, ...)` and `rotate(None, k, ...)` return one tensor.
    `rotate(call, out, backend)` takes a `Rotate`, and returns a `Rotated`.

    Autograd differentiates the results with respect to q and k, also more than once.

    Args:
        q: `[B, S, H, D]`, or packed `[T, H, D]`; float32, float16 or bfloat16. Not written to.
        k: as q, with its own number of heads, or None.
        backend: name of the backend; None for the first that can run the call.
        rope: what `resolve` takes. In a dict of parameters `head_dim` is that of q.
        positions: whole numbers, or fractional ones, in tokens (float32 or float64), between -2**53
            and 2**53: `[S]`, `[B, S]` or `[T]`, of several axes `[A, B, S]` or `[A, T]`; a tensor,
            an array of numpy, lists or a range. None counts from 0 in each sequence.
        cu_seqlens: whole numbers `[N + 1]`: where each packed sequence starts, and the number of
            tokens.
        inverse: whether to rotate back, which is exact except for rounding.
        frequencies: float32 or float64, radians per position, of a model that learned them, see
            `Rotate`.
        out: where to write, only with a `Rotate`, without gradients: contiguous tensors that share
            no memory with those of the call, or the tensors of the call themselves.

    Raises:
        ShapeError: shapes, dtypes or numbers do not fit each other, or a tensor other than q and k
            requires gradients.
        ConfigError: the rope is not valid, or no backend has that name.
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the named backend is still being built.

    Warns:
        RopeWarning: layers of the model differ and none is named; q looks like `[B, H, S, D]`.

    Source: RoFormer, Su et al., 2021, https://arxiv.org/abs/2104.09864, section 3.2.
    """
    if not isinstance(q, Rotate):
        if out is not None:
            raise ConfigError("out", "None unless the first argument is a Rotate", "tensors")
        return _rotate_tensors(*(q, k, rope, positions, cu_seqlens, inverse, frequencies, backend))
    if out is not None and k is not None:
        raise ConfigError("out", "given once", "twice")
    out = k if out is None else out
    refuse_arguments(
        rope=rope,
        positions=positions,
        cu_seqlens=cu_seqlens,
        inverse=inverse or None,
        frequencies=frequencies,
    )
    if not torch.is_grad_enabled():  # also in inference mode
        return run_rotate(q, out, backend)
    if any(x is not None and x.requires_grad for x in (q.q, q.k, q.positions, q.frequencies)):
        if out is not None:
            raise ConfigError("out", "None for tensors that require gradients", "tensors")
        return rotate_with_gradients(q, backend)
    with torch.no_grad():
        return run_rotate(q, out, backend)


def _rotate_tensors(
    q: Tensor | None,
    k: Tensor | None,
    rope: Any,
    positions: Numbers | None,
    cu_seqlens: Numbers | None,
    inverse: bool,
    frequencies: Tensor | None,
    backend: str | None,
) -> Tensor | tuple[Tensor, Tensor]:
    if not isinstance(backend, str | None):
        expected = "the name of a backend; positions are given by name, as positions=..."
        raise ConfigError("backend", expected, brief(backend))
    x = k if q is None else q
    if x is None:
        raise not_a_tensor("q", q)
    if not isinstance(x, Tensor):
        raise not_a_tensor("q" if x is q else "k", x)
    at = as_tensor("positions", positions, x.device)
    starts = as_tensor("cu_seqlens", cu_seqlens, x.device)
    config = resolve_for(rope, x, at).require_rope()
    call = Rotate(q, k, config, at, starts, inverse, frequencies)
    if at is None:
        warn_of_heads_first(x, k)
    rotated = rotate(call, backend=backend)
    q_out, k_out = rotated.q, rotated.k
    if q_out is not None and k_out is not None:
        return q_out, k_out
    x_out = k_out if q_out is None else q_out
    assert x_out is not None, "the call has q or k"
    return x_out
