"""What each route reads from a message, and what it writes to one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from torch import Tensor

from rope_core import (
    Attend,
    Attended,
    Call,
    ConfigError,
    CosSin,
    Merge,
    Result,
    Rotate,
    Rotated,
    ShapeError,
    Shift,
    Table,
)
from service.errors import UnknownName, printable
from service.params import AttentionParams, NoParams, Rope, RopeParams, RotateParams
from service.wire import Message

P = TypeVar("P", bound=BaseModel)
Tensors = Mapping[str, Tensor]

CACHED_PARAMS_BYTES = 4096
"""Longer texts of parameters are read anew each time, so that a cache of them stays small."""


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[P]):
    """One route: `POST path`."""

    path: str
    summary: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    answers: tuple[str, ...]
    """Names of the tensors of the answer."""
    params: type[P]
    call: Callable[[Tensors, P], Call]
    names: frozenset[str] = field(init=False)
    """Names of the tensors it knows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset((*self.required, *self.optional)))

    def read(self, message: Message) -> Call:
        """Return the call that a message asks for.

        Raises:
            UnknownName: a tensor or a parameter that this route does not have.
            RopeError: a tensor or a parameter does not fit.
        """
        tensors = message.tensors
        for name in self.required:
            if name not in tensors:
                raise ShapeError(name, "a tensor of the message", "none")
        if not tensors.keys() <= self.names:
            name = min(tensors.keys() - self.names)
            raise UnknownName("tensor", name, [*self.required, *self.optional])
        text = message.params
        read = _read_params if len(text) > CACHED_PARAMS_BYTES else _read_known
        return self.call(tensors, read(self.params, text))


def _read_params(kind: type[P], text: bytes) -> P:
    try:
        return kind.model_validate_json(text)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False)[0]
    *within, name = (str(part) for part in first["loc"] or ("params",))
    if first["type"] == "extra_forbidden":
        known = Rope if within else kind
        raise UnknownName("parameter", ".".join((*within, name)), list(known.model_fields))
    expected = first["msg"].removeprefix("Input should be ")
    got = json.dumps(first["input"], default=repr)
    raise ConfigError(".".join((*within, name)), expected, printable(got))


_read_known = lru_cache(maxsize=1024)(_read_params)


def write(result: Result, base64: bool) -> Message:
    """Return the message that answers with `result`."""
    match result:
        case Rotated(q, k):
            tensors = {"q": q, "k": k}
        case Attended(out, lse):
            tensors = {"out": out, "lse": lse}
        case Table(cos, sin):
            return Message({"cos": cos, "sin": sin}, b'{"attention_scaling":1.0}', base64)
    return Message({name: t for name, t in tensors.items() if t is not None}, base64=base64)


def _rotate(tensors: Tensors, params: RotateParams) -> Rotate:
    q, k = tensors.get("q"), tensors.get("k")
    x = k if q is None else q
    if x is None:
        raise ShapeError("q or k", "a tensor of the message", "neither")
    return Rotate(
        q,
        k,
        params.rope.config(_head_dim(x)),
        tensors.get("positions"),
        tensors.get("cu_seqlens"),
        params.inverse,
    )


def _attend(tensors: Tensors, params: AttentionParams) -> Attend:
    q = tensors["q"]
    return Attend(
        q,
        tensors["k"],
        tensors["v"],
        None if params.rope is None else params.rope.config(_head_dim(q)),
        params.config,
        *_each(tensors, "positions", "q_positions", "k_positions"),
        *_each(tensors, "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
        params.return_lse,
    )


def _cos_sin(tensors: Tensors, params: RopeParams) -> CosSin:
    return CosSin(tensors["positions"], params.rope.config(None))


def _shift(tensors: Tensors, params: RopeParams) -> Shift:
    k = tensors["k"]
    rope = params.rope.config(_head_dim(k))
    return Shift(k, tensors["delta"], rope, tensors.get("positions"))


def _merge(tensors: Tensors, params: NoParams) -> Merge:
    return Merge(tensors["out"], tensors["lse"])


def _each(tensors: Tensors, both: str, of_q: str, of_k: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the tensors of q and of k: given apart, or one for both."""
    if both not in tensors:
        return tensors.get(of_q), tensors.get(of_k)
    if of_q in tensors or of_k in tensors:
        raise ShapeError(both, f"absent where {of_q} or {of_k} is given", "all of them")
    return tensors[both], tensors[both]


def _head_dim(x: Tensor) -> int | None:
    return x.shape[-1] if x.ndim else None


ENDPOINTS: tuple[Endpoint[Any], ...] = (
    Endpoint(
        "/v1/rotate",
        "Rotate q and k by the positions of their tokens",
        (),
        ("q", "k", "positions", "cu_seqlens"),
        ("q", "k"),
        RotateParams,
        _rotate,
    ),
    Endpoint(
        "/v1/attention",
        "Rotate q and k, then attend",
        ("q", "k", "v"),
        (
            *("positions", "q_positions", "k_positions"),
            *("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
        ),
        ("out", "lse"),
        AttentionParams,
        _attend,
    ),
    Endpoint(
        "/v1/cos_sin",
        "Cosine and sine of every pair's angle",
        ("positions",),
        (),
        ("cos", "sin"),
        RopeParams,
        _cos_sin,
    ),
    Endpoint(
        "/v1/shift",
        "Move rotated keys to other positions",
        ("k", "delta"),
        ("positions",),
        ("k",),
        RopeParams,
        _shift,
    ),
    Endpoint(
        "/v1/merge",
        "Merge attention over parts of the keys",
        ("out", "lse"),
        (),
        ("out", "lse"),
        NoParams,
        _merge,
    ),
)
