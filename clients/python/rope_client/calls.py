"""The calls of the service. Pure: no network, no clock.

Arguments have the names and defaults of docs/api.md; arrays are numpy arrays, torch tensors, or
what `numpy.asarray` accepts. Arguments that are `UNSET` are not sent: the model's config or the
default decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeVar, Unpack

import numpy.typing as npt

from rope_client import readers
from rope_client.answers import (
    Attended,
    Built,
    Comparison,
    Diagnosis,
    Resolved,
    Rotated,
    Shifted,
    Table,
)
from rope_client.arrays import arrays_of
from rope_client.call import Call, Options, Response, message_of
from rope_client.errors import RopeClientError
from rope_client.rope import DEFAULT_ROPE, Rope, rope_json
from rope_client.wire.message import Message

T = TypeVar("T")

TENSOR_ARGUMENTS = frozenset(
    {
        *("attention_mask", "cu_seqlens", "grid_hw", "grid_thw", "image_grid_thw", "input_ids"),
        *("lengths", "positions", "rope_delta", "second_per_grid_ts", "starts", "text_lengths"),
        *("timestamps",),
        *("token_types", "uid", "video_grid_thw", "xyz"),
    }
)
"""The arguments of builders of positions that are tensors of the message."""


class Unset(Enum):
    """Marks a missing argument where None has a meaning."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET


def rotate(
    q: npt.ArrayLike | None = None,
    k: npt.ArrayLike | None = None,
    *,
    positions: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    frequencies: npt.ArrayLike | None = None,
    rope: Rope = DEFAULT_ROPE,
    inverse: bool = False,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Rotated]:
    """Rotate `q` and `k` (or one of them) by the positions of their tokens."""
    tensors = {
        "q": q,
        "k": k,
        "positions": positions,
        "cu_seqlens": cu_seqlens,
        "frequencies": frequencies,
    }
    params = {
        "rope": rope_json(rope),
        "inverse": inverse,
        "tensor_layout": tensor_layout,
        "backend": backend,
    }
    return _post("/v1/rotate", tensors, params, readers.rotated, options)


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    positions: npt.ArrayLike | None = None,
    q_positions: npt.ArrayLike | None = None,
    k_positions: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    cu_seqlens_q: npt.ArrayLike | None = None,
    cu_seqlens_k: npt.ArrayLike | None = None,
    sinks: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    frequencies: npt.ArrayLike | None = None,
    q_index: npt.ArrayLike | None = None,
    k_index: npt.ArrayLike | None = None,
    rope: Rope | None = DEFAULT_ROPE,
    rotate: str = "both",
    causal: bool | Unset = UNSET,
    window: int | Unset | None = UNSET,
    window_ahead: int | Unset = UNSET,
    chunk: int | Unset | None = UNSET,
    softcap: float | Unset | None = UNSET,
    scale: float | Unset | None = UNSET,
    return_lse: bool = False,
    out_dtype: str | None = None,
    q_offset: int | None = None,
    k_offset: int | None = None,
    k_stride: int = 1,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Attended]:
    """Rotate `q` and `k`, or what `rotate` names (nothing if `rope` is None), then attend."""
    tensors = {
        "q": q,
        "k": k,
        "v": v,
        "positions": positions,
        "q_positions": q_positions,
        "k_positions": k_positions,
        "cu_seqlens": cu_seqlens,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "sinks": sinks,
        "mask": mask,
        "frequencies": frequencies,
        "q_index": q_index,
        "k_index": k_index,
    }
    params = {
        "rope": None if rope is None else rope_json(rope),
        "rotate": rotate,
        "causal": causal,
        "window": window,
        "window_ahead": window_ahead,
        "chunk": chunk,
        "softcap": softcap,
        "scale": scale,
        "return_lse": return_lse,
        "out_dtype": out_dtype,
        "q_offset": q_offset,
        "k_offset": k_offset,
        "k_stride": k_stride,
        "tensor_layout": tensor_layout,
        "backend": backend,
    }
    return _post("/v1/attention", tensors, params, readers.attended, options)


def cos_sin(
    positions: npt.ArrayLike,
    *,
    frequencies: npt.ArrayLike | None = None,
    rope: Rope,
    **options: Unpack[Options],
) -> Call[Table]:
    """Cosine and sine of every pair's angle; parameters need `head_dim` or `rotary_dim` here."""
    tensors = {"positions": positions, "frequencies": frequencies}
    return _post("/v1/cos_sin", tensors, {"rope": rope_json(rope)}, readers.table, options)


def shift(
    k: npt.ArrayLike,
    delta: npt.ArrayLike,
    *,
    positions: npt.ArrayLike | None = None,
    rope: Rope = DEFAULT_ROPE,
    to: Rope | None = None,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Shifted]:
    """Move rotated keys by `delta` positions; `to` is their new rope."""
    tensors = {"k": k, "delta": delta, "positions": positions}
    moved_to = None if to is None else rope_json(to)
    params = {
        "rope": rope_json(rope),
        "to": moved_to,
        "tensor_layout": tensor_layout,
        "backend": backend,
    }
    return _post("/v1/shift", tensors, params, readers.shifted, options)


def merge(
    out: npt.ArrayLike,
    lse: npt.ArrayLike,
    *,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Attended]:
    """Merge attention over N disjoint sets of keys into attention over all of them."""
    params = {"tensor_layout": tensor_layout, "backend": backend}
    return _post("/v1/merge", {"out": out, "lse": lse}, params, readers.attended, options)


def diagnose(
    rope: Rope | None,
    *,
    before: npt.ArrayLike | None = None,
    after: npt.ArrayLike | None = None,
    cos: npt.ArrayLike | None = None,
    sin: npt.ArrayLike | None = None,
    inv_freq: npt.ArrayLike | None = None,
    q: npt.ArrayLike | None = None,
    k: npt.ArrayLike | None = None,
    v: npt.ArrayLike | None = None,
    out: npt.ArrayLike | None = None,
    lse: npt.ArrayLike | None = None,
    positions: npt.ArrayLike | None = None,
    q_positions: npt.ArrayLike | None = None,
    k_positions: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    cu_seqlens_q: npt.ArrayLike | None = None,
    cu_seqlens_k: npt.ArrayLike | None = None,
    sinks: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    frequencies: npt.ArrayLike | None = None,
    q_index: npt.ArrayLike | None = None,
    k_index: npt.ArrayLike | None = None,
    max_mistakes: int = 2,
    tolerance: float | None = None,
    rotate: str | Unset = UNSET,
    causal: bool | Unset = UNSET,
    window: int | Unset | None = UNSET,
    window_ahead: int | Unset = UNSET,
    chunk: int | Unset | None = UNSET,
    softcap: float | Unset | None = UNSET,
    scale: float | Unset | None = UNSET,
    q_offset: int | Unset = UNSET,
    k_offset: int | Unset = UNSET,
    k_stride: int | Unset = UNSET,
    tensor_layout: str | Unset = UNSET,
    **options: Unpack[Options],
) -> Call[Diagnosis]:
    """Say whether numbers of your code are those of `rope`, and which mistakes explain them if not.

    Send one kind of evidence: `before` and `after` of a rotation, a table `cos` and `sin`,
    `inv_freq`, or `q`, `k`, `v` before the rotation with `out` and perhaps `lse` of an attention.
    The arguments from `q_positions` on, but for `max_mistakes` and `tolerance`, are for attention.
    """
    tensors = {
        "before": before,
        "after": after,
        "cos": cos,
        "sin": sin,
        "inv_freq": inv_freq,
        "q": q,
        "k": k,
        "v": v,
        "out": out,
        "lse": lse,
        "positions": positions,
        "q_positions": q_positions,
        "k_positions": k_positions,
        "cu_seqlens": cu_seqlens,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "sinks": sinks,
        "mask": mask,
        "frequencies": frequencies,
        "q_index": q_index,
        "k_index": k_index,
    }
    params = {
        "rope": None if rope is None else rope_json(rope),
        "max_mistakes": max_mistakes,
        "tolerance": tolerance,
        "rotate": rotate,
        "causal": causal,
        "window": window,
        "window_ahead": window_ahead,
        "chunk": chunk,
        "softcap": softcap,
        "scale": scale,
        "q_offset": q_offset,
        "k_offset": k_offset,
        "k_stride": k_stride,
        "tensor_layout": tensor_layout,
    }
    return _post("/v1/diagnose", tensors, params, readers.diagnosis, options)


def compare(rope: Rope | None, other: Rope | None, **options: Unpack[Options]) -> Call[Comparison]:
    """Compare two ropes: parameters, angles, and the first position that differs."""
    params = {
        "rope": None if rope is None else rope_json(rope),
        "other": None if other is None else rope_json(other),
    }
    return _post("/v1/compare", {}, params, readers.comparison, options)


def resolve(rope: Rope, **options: Unpack[Options]) -> Call[Resolved]:
    """Resolve a model's config, or any other `rope`: frequencies, parameters, warnings."""
    return _post("/v1/resolve", {}, {"rope": rope_json(rope)}, readers.resolved, options)


def positions(
    builder: str,
    *,
    timeout_s: float | None = None,
    request_id: str | None = None,
    **arguments: Any,
) -> Call[Built]:
    """Build positions; `variants` lists the builders and their arguments.

    The arguments in `TENSOR_ARGUMENTS` are sent as tensors, all others as JSON.
    """
    options: Options = {}
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    if request_id is not None:
        options["request_id"] = request_id
    tensors = {name: value for name, value in arguments.items() if name in TENSOR_ARGUMENTS}
    others = {name: value for name, value in arguments.items() if name not in tensors}
    params = {"builder": builder, "arguments": others}
    return _post("/v1/positions", tensors, params, readers.built, options)


def presets(**options: Unpack[Options]) -> Call[list[dict[str, Any]]]:
    """All presets of the service, each with `name`, `config` and `source`."""
    return _get("/v1/presets", lambda answer: list(readers.members(answer)["presets"]), options)


def variants(**options: Unpack[Options]) -> Call[dict[str, Any]]:
    """The service's variants, schemes of several axes and builders, with their parameters."""
    return _get("/v1/variants", readers.members, options)


def ready(**options: Unpack[Options]) -> Call[bool]:
    """Whether the service is ready for traffic; False if it cannot be reached."""
    return _get("/readyz", lambda _: True, options, readers.not_ready)


def version(**options: Unpack[Options]) -> Call[dict[str, Any]]:
    """Versions of the service, of torch and of Python, and the device."""
    return _get("/version", readers.members, options)


def _get(
    path: str,
    read: Callable[[Response], T],
    options: Options,
    read_failure: Callable[[RopeClientError], T] | None = None,
) -> Call[T]:
    return Call(
        path=path,
        message=None,
        read=read,
        options=options,
        is_idempotent=True,
        read_failure=read_failure,
    )


def _post(
    path: str,
    tensors: Mapping[str, npt.ArrayLike | None],
    params: Mapping[str, Any],
    read: Callable[[Message], T],
    options: Options,
) -> Call[T]:
    """Return a POST of a pure function of its message."""
    arrays, warnings = arrays_of(tensors)
    set_params = {name: value for name, value in params.items() if value is not UNSET}

    def read_response(response: Response) -> T:
        return read(message_of(response))

    return Call(
        path=path,
        message=Message(arrays, set_params),
        read=read_response,
        options=options,
        is_idempotent=True,
        warnings=warnings,
    )
