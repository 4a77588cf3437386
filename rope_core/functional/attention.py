"""Rotate q and k, then attend: tensors, or a call that is a value."""

import warnings
from typing import Any, Literal, overload

import torch
from torch import Tensor

from rope_core.attention import run_attend
from rope_core.attention_warnings import attention_warnings
from rope_core.calls import Attend, Attended, Sides
from rope_core.checks import not_a_tensor
from rope_core.config import AttentionConfig
from rope_core.errors import ConfigError, brief
from rope_core.functional.arguments import (
    MISSING,
    Numbers,
    RopeWarning,
    as_tensor,
    refuse_arguments,
    resolve_for,
    warn_of_heads_first,
)
from rope_core.gradients import refuse_gradients
from rope_core.sources import RopeSource

OPTIONS = ("return_lse", "sinks", "mask", "frequencies", "q_index", "k_index", "out_dtype")
"""Fields of `Attend` that are arguments of the same names."""


@overload
def attend(call: Attend, backend: str | None = None, /) -> Attended: ...


@overload
def attend(call: Attend, /, *, backend: str | None = None) -> Attended: ...


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_lse: Literal[False] = False,
    rope: RopeSource | None,
    **options: Any,
) -> Tensor: ...


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_lse: Literal[True],
    rope: RopeSource | None,
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def attend(
    q: Any,
    k: Any = None,
    v: Any = None,
    *,
    rope: Any = MISSING,
    rotate: Sides = "both",
    attention: AttentionConfig | None = None,
    positions: Numbers | None = None,
    q_positions: Numbers | None = None,
    k_positions: Numbers | None = None,
    cu_seqlens_q: Numbers | None = None,
    cu_seqlens_k: Numbers | None = None,
    return_lse: bool = False,
    backend: str | None = None,
    **fields: Any,
) -> Any:
    """Rotate q and k by their positions, then attend.

    `attend(q, k, v, positions=..., rope=...)` returns `out`, `[B, Sq, H, Dv]` or `[Tq, H, Dv]` in
    the dtype of q; with `return_lse` the pair of `out` and `lse`, float32, `out` without the last
    axis, natural logarithm. `attend(call, backend)` takes an `Attend`, and returns an `Attended`.

    Args:
        q: `[B, Sq, H, D]`, or packed `[Tq, H, D]`; float32, float16 or bfloat16. No tensor is
            written to.
        k: `[B, Sk, Hkv, D]` or `[Tk, Hkv, D]`; H is a multiple of Hkv.
        v: `[B, Sk, Hkv, Dv]` or `[Tk, Hkv, Dv]`.
        rope: what `resolve` takes; None rotates nothing, for a layer without positions.
        rotate: what is rotated: `q` if the keys are rotated already, as in a cache of keys, `k` if
            the queries are, `none` if both are.
        attention: mask, window and scale; None for those of the model, or causal if rope is none.
        positions: as in `rotate`, of queries and keys, or of the side that rotates.
        q_positions: positions of the queries, in place of `positions`.
        k_positions: positions of the keys.
        cu_seqlens_q: as `cu_seqlens` of `rotate`, of the queries. Needs `cu_seqlens_k`.
        cu_seqlens_k: of the keys.
        return_lse: whether to return the log-sum-exp of the scores of each query.
        backend: name of the backend; None for the first that can run the call.
        fields: `sinks`, `mask`, `frequencies`, `q_index`, `k_index`, `out_dtype`, see `Attend`; an
            index in any form of `positions`.

    Raises:
        ShapeError: shapes, dtypes or numbers do not fit each other, or a tensor requires gradients,
            which are not computed.
        ConfigError: the rope is not valid, its layers differ and none is named, or no backend has
            that name.
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the named backend is still being built.

    Warns:
        RopeWarning: queries or keys count from 0 although they may be elsewhere; the side that is
            rotated already may have another length; q looks like `[B, H, S, D]`.

    Source: RoFormer, Su et al., 2021; FlashAttention, Dao et al., 2022.
    """
    if isinstance(q, Attend):
        call, backend = q, k if backend is None else backend
        given = {"positions": positions, "q_positions": q_positions, "k_positions": k_positions}
        given |= {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k, **fields}
        refuse_arguments(
            v=v, rope=rope, attention=attention, return_lse=return_lse or None, **given
        )
    else:
        if positions is not None and (q_positions is not None or k_positions is not None):
            raise ConfigError("positions", "None if q_positions or k_positions is given", "both")
        if positions is not None:  # of the sides that rotate
            q_positions = None if rotate == "k" else positions
            k_positions = None if rotate == "q" else positions
        call = _attend_call(
            *(q, k, v, rope, attention, rotate),
            q_positions=q_positions,
            k_positions=k_positions,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            return_lse=return_lse,
            **fields,
        )
    if not torch.is_grad_enabled():  # also in inference mode
        result = run_attend(call, backend)
    else:
        refuse_gradients(call, "attend")
        with torch.no_grad():
            result = run_attend(call, backend)
    if call is q:
        return result
    return (result.out, result.lse) if return_lse else result.out


def _attend_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Any,
    attention: AttentionConfig | None,
    rotate: Sides,
    *,
    q_positions: Numbers | None,
    k_positions: Numbers | None,
    cu_seqlens_q: Numbers | None,
    cu_seqlens_k: Numbers | None,
    **fields: Any,
) -> Attend:
    for name in fields:
        if name not in OPTIONS:
            text = f"attend() got an unexpected keyword argument {name!r}"
            if name in AttentionConfig.__dataclass_fields__:
                text += f": pass attention=AttentionConfig({name}=...)"
            raise TypeError(text)
    if not isinstance(attention, AttentionConfig | None):
        raise ConfigError("attention", "an AttentionConfig, or None", brief(attention))
    if not isinstance(q, Tensor):
        raise not_a_tensor("q", q)
    if not isinstance(k, Tensor):
        raise not_a_tensor("k", k)
    same = k_positions is q_positions
    q_at = as_tensor("q_positions", q_positions, q.device)
    k_at = q_at if same else as_tensor("k_positions", k_positions, q.device)
    q_starts = as_tensor("cu_seqlens_q", cu_seqlens_q, q.device)
    k_starts = as_tensor("cu_seqlens_k", cu_seqlens_k, q.device)
    for name in ("q_index", "k_index"):
        fields[name] = as_tensor(name, fields.get(name), q.device)
    config = None
    if rope is not None:
        resolved = resolve_for(rope, *((k, k_at) if rotate == "k" else (q, q_at)))
        if resolved.differ:
            expected = "resolve(..., layer=...), because the layers of this model differ"
            raise ConfigError("rope", expected, "no layer")
        of_layer = resolved.require_attention()
        config, attention = resolved.rope, attention or of_layer
        if config is None:  # a layer that rotates nothing, among others that do
            rotate = "both"
    attention = attention or AttentionConfig()
    tensors = (q_at, k_at, q_starts, k_starts)
    call = Attend(q, k, v, config, attention, *tensors, rotate=rotate, **fields)
    if q_at is None and call.q_index is None:
        warn_of_heads_first(q, k)
    for text in attention_warnings(call, config):
        warnings.warn(text, RopeWarning, stacklevel=3)
    return call
