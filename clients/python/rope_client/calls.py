"""The calls of the service and the readers of their answers. Pure: no network, no clock.

Arguments have the names and defaults of docs/api.md; arrays are anything that `numpy.asarray`
accepts. Arguments that are `UNSET` are not sent: the model's config or the default decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from rope_client.answers import Attended, Built, Resolved, Rotated, Shifted, Table
from rope_client.errors import ConnectionFailed, Overloaded, RopeClientError, TimedOut
from rope_client.wire import codec_for
from rope_client.wire.message import Message

T = TypeVar("T")

Rope = Mapping[str, Any] | str
"""How to rotate: parameters, `{"config": {...}}`, `{"preset": name}` or the name alone."""

DEFAULT_ROPE: Rope = MappingProxyType({})

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Unset(Enum):
    """Marks a missing argument where None has a meaning."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET


class Options(TypedDict, total=False):
    """Options of every method."""

    timeout_s: float
    """Deadline of this call, with all attempts and pauses; replaces the client's.

    The service keeps the deadline as well. An attempt takes longer only if its bytes trickle: httpx
    applies the remaining time to connecting, to each write and to each read.
    """

    request_id: str
    """Identifier in the service's log: up to 64 of `[A-Za-z0-9._-]`; random if missing."""


@dataclass(frozen=True, slots=True)
class Response:
    """The HTTP response of one attempt."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Call(Generic[T]):
    """One call, not yet encoded."""

    path: str

    message: Message | None
    """The message to POST; None for a GET."""

    read: Callable[[Response], T]
    """Reads the answer; raises any exception if the answer has another form."""

    options: Options

    read_failure: Callable[[RopeClientError], T] | None = None
    """Turns a failure into an answer, or raises it; such a call is attempted once."""

    def __post_init__(self) -> None:
        # `Unpack` binds only the type checker: at run time the options may hold any name
        if unknown := self.options.keys() - Options.__annotations__.keys():
            raise TypeError(f"{self.path} has no argument {', '.join(sorted(unknown))}")


def rotate(
    *,
    q: npt.ArrayLike | None = None,
    k: npt.ArrayLike | None = None,
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
        "rope": _rope_json(rope),
        "inverse": inverse,
        "tensor_layout": tensor_layout,
        "backend": backend,
    }
    return _post("/v1/rotate", tensors, params, _rotated, options)


def attention(
    *,
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
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
        "rope": None if rope is None else _rope_json(rope),
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
    return _post("/v1/attention", tensors, params, _attended, options)


def cos_sin(
    *,
    positions: npt.ArrayLike,
    frequencies: npt.ArrayLike | None = None,
    rope: Rope,
    **options: Unpack[Options],
) -> Call[Table]:
    """Cosine and sine of every pair's angle; parameters need `head_dim` or `rotary_dim` here."""
    tensors = {"positions": positions, "frequencies": frequencies}
    return _post("/v1/cos_sin", tensors, {"rope": _rope_json(rope)}, _table, options)


def shift(
    *,
    k: npt.ArrayLike,
    delta: npt.ArrayLike,
    positions: npt.ArrayLike | None = None,
    rope: Rope = DEFAULT_ROPE,
    to: Rope | None = None,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Shifted]:
    """Move rotated keys by `delta` positions; `to` is their new rope."""
    tensors = {"k": k, "delta": delta, "positions": positions}
    moved_to = None if to is None else _rope_json(to)
    params = {
        "rope": _rope_json(rope),
        "to": moved_to,
        "tensor_layout": tensor_layout,
        "backend": backend,
    }
    return _post("/v1/shift", tensors, params, _shifted, options)


def merge(
    *,
    out: npt.ArrayLike,
    lse: npt.ArrayLike,
    tensor_layout: str = "bshd",
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[Attended]:
    """Merge attention over N disjoint sets of keys into attention over all of them."""
    params = {"tensor_layout": tensor_layout, "backend": backend}
    return _post("/v1/merge", {"out": out, "lse": lse}, params, _attended, options)


def resolve(*, rope: Rope, **options: Unpack[Options]) -> Call[Resolved]:
    """Resolve a model's config, or any other `rope`: frequencies, parameters, warnings."""
    return _post("/v1/resolve", {}, {"rope": _rope_json(rope)}, _resolved, options)


def positions(
    *,
    builder: str,
    arguments: Mapping[str, Any] = NOTHING,
    tensors: Mapping[str, npt.ArrayLike] = NOTHING,
    **options: Unpack[Options],
) -> Call[Built]:
    """Build positions; `variants` lists the builders, and which of their arguments are tensors."""
    params = {"builder": builder, "arguments": dict(arguments)}
    return _post("/v1/positions", tensors, params, _built, options)


def presets(**options: Unpack[Options]) -> Call[list[dict[str, Any]]]:
    """All presets of the service, each with `name`, `config` and `source`."""
    return Call("/v1/presets", None, lambda answer: list(_members(answer)["presets"]), options)


def variants(**options: Unpack[Options]) -> Call[dict[str, Any]]:
    """The service's variants, schemes of several axes and builders, with their parameters."""
    return Call("/v1/variants", None, _members, options)


def ready(**options: Unpack[Options]) -> Call[bool]:
    """Whether the service is ready for traffic; False if it cannot be reached."""
    return Call("/readyz", None, lambda _: True, options, _not_ready)


def version(**options: Unpack[Options]) -> Call[dict[str, Any]]:
    """Versions of the service, of torch and of Python, and the device."""
    return Call("/version", None, _members, options)


def _post(
    path: str,
    tensors: Mapping[str, npt.ArrayLike | None],
    params: Mapping[str, Any],
    read: Callable[[Message], T],
    options: Options,
) -> Call[T]:
    arrays = {name: np.asarray(x) for name, x in tensors.items() if x is not None}
    set_params = {name: value for name, value in params.items() if value is not UNSET}

    def read_response(response: Response) -> T:
        codec = codec_for(response.headers["content-type"])
        return read(codec.decode(response.content))

    return Call(path, Message(arrays, set_params), read_response, options)


def _rope_json(rope: Rope) -> dict[str, Any] | str:
    return rope if isinstance(rope, str) else dict(rope)


def _members(response: Response) -> dict[str, Any]:
    return dict(json.loads(response.content))


def _warnings(message: Message) -> tuple[str, ...]:
    return tuple(map(str, message.params.get("warnings", ())))


def _not_ready(failure: RopeClientError) -> bool:
    if isinstance(failure, Overloaded | ConnectionFailed | TimedOut):
        return False
    raise failure


def _rotated(message: Message) -> Rotated:
    return Rotated(message.tensors.get("q"), message.tensors.get("k"), _warnings(message))


def _attended(message: Message) -> Attended:
    return Attended(message.tensors["out"], message.tensors.get("lse"), _warnings(message))


def _table(message: Message) -> Table:
    tensors, scaling = message.tensors, float(message.params["attention_scaling"])
    return Table(tensors["cos"], tensors["sin"], scaling, tensors.get("scale"), _warnings(message))


def _shifted(message: Message) -> Shifted:
    return Shifted(message.tensors["k"], _warnings(message))


def _resolved(message: Message) -> Resolved:
    facts = {name: fact for name, fact in message.params.items() if name != "warnings"}
    if "rotates" not in facts:
        raise KeyError("rotates")
    return Resolved(message.tensors.get("inv_freq"), facts, _warnings(message))


def _built(message: Message) -> Built:
    return Built(message.tensors.get("positions"), message.tensors, _warnings(message))
