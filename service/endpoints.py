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
from service.errors import BadMessage, TooLarge, UnknownName, printable
from service.local import TENSOR_ARGUMENTS, build_positions, resolve_rope
from service.params import (
    AttentionParams,
    CosSinParams,
    NoParams,
    PositionsParams,
    ResolveParams,
    RotateParams,
    ShiftParams,
)
from service.ropes import FORMS, Found, Ropes
from service.wire import Message

P = TypeVar("P", bound=BaseModel)
Tensors = Mapping[str, Tensor]

PROMPT_PARAMS_BYTES = 2**14
"""Longer texts of parameters are read anew each time, and beside the event loop."""

MAX_PARAMS_BYTES = 2**18
"""Longest text of parameters: many times what the config.json of any model takes."""

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers beyond it are not all float32's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message asks for."""

    call: Call | Message
    """Or the answer itself, where it takes no device."""

    warnings: tuple[str, ...] = ()
    """What the client should know."""


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
    call: Callable[[Tensors, P, Ropes], Asked]
    aside: bool = False
    """Whether `call` may take so long that it must not hold up the event loop."""
    names: frozenset[str] = field(init=False)
    """Names of the tensors it knows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset((*self.required, *self.optional)))

    def read(self, message: Message, ropes: Ropes) -> Asked:
        """Return what a message asks for.

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
        if len(text) > MAX_PARAMS_BYTES:
            raise TooLarge("parameters, in bytes,", MAX_PARAMS_BYTES, f"{len(text):,}")
        read = _read_params if len(text) > PROMPT_PARAMS_BYTES else _read_known
        return self.call(tensors, read(self.params, text), ropes)


def _read_params(kind: type[P], text: bytes) -> P:
    try:
        return kind.model_validate_json(text)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":  # pydantic's parser goes less deep than that of the codecs
        raise BadMessage("parameters are nested too deep")
    loc = [str(part) for part in first["loc"] or ("params",)]
    known = list(kind.model_fields)
    expected = first["msg"].removeprefix("Input should be ")
    if loc[0] in ("rope", "to") and len(loc) > 1:
        form = loc.pop(1)  # a tag, which the client did not write
        known = list(FORMS[form].model_fields)
        expected = expected if len(loc) > 1 else "an object or the name of a preset"
    name = ".".join(loc)
    match first["type"]:
        case "extra_forbidden":
            raise UnknownName("parameter", name, known)
        case "missing":
            raise ConfigError(name, "given", "none")
    got = json.dumps(first["input"], default=repr)
    raise ConfigError(name, expected, printable(got))


_read_known = lru_cache(maxsize=256)(_read_params)


def write(result: Result, base64: bool, warnings: tuple[str, ...] = ()) -> Message:
    """Return the message that answers with `result`."""
    told: dict[str, Any] = {"warnings": warnings} if warnings else {}
    match result:
        case Rotated(q, k):
            tensors = {"q": q, "k": k}
        case Attended(out, lse):
            tensors = {"out": out, "lse": lse}
        case Table(cos, sin, gain, scale):
            tensors = {"cos": cos, "sin": sin, "scale": scale}
            told["attention_scaling"] = gain
    text = json.dumps(told).encode() if told else b"{}"
    return Message({name: t for name, t in tensors.items() if t is not None}, text, base64)


def _rotate(tensors: Tensors, params: RotateParams, ropes: Ropes) -> Asked:
    q, k = tensors.get("q"), tensors.get("k")
    x = k if q is None else q
    if x is None:
        raise ShapeError("q or k", "a tensor of the message", "neither")
    positions = tensors.get("positions")
    found = ropes.read(params.rope, _head_dim(x), _num_axes(x, positions))
    call = Rotate(
        q,
        k,
        found.rope,
        positions,
        tensors.get("cu_seqlens"),
        params.inverse,
        tensors.get("frequencies"),
    )
    return Asked(call, _warnings(found, positions))


def _attend(tensors: Tensors, params: AttentionParams, ropes: Ropes) -> Asked:
    q = tensors["q"]
    q_positions, k_positions = _each(tensors, "positions", "q_positions", "k_positions")
    found = Found(None)
    if params.rope is not None:
        found = ropes.read(params.rope, _head_dim(q), _num_axes(q, q_positions))
    model = found.attention
    if found.resolved is not None and found.resolved.differ:
        expected = "given, or layer_type: layers of this model differ"
        raise ConfigError("rope.layer", expected, "none")
    call = Attend(
        q,
        tensors["k"],
        tensors["v"],
        found.config,
        params.config if model is None else params.over(model),
        q_positions,
        k_positions,
        *_each(tensors, "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
        params.return_lse,
        tensors.get("sinks"),
        tensors.get("mask"),
        tensors.get("frequencies"),
    )
    return Asked(call, _warnings(found, q_positions, k_positions))


def _cos_sin(tensors: Tensors, params: CosSinParams, ropes: Ropes) -> Asked:
    positions = tensors["positions"]
    found = ropes.read(params.rope, None, len(positions) if positions.ndim > 1 else 1)
    call = CosSin(positions, found.rope, tensors.get("frequencies"))
    return Asked(call, _warnings(found, positions))


def _shift(tensors: Tensors, params: ShiftParams, ropes: Ropes) -> Asked:
    k, positions = tensors["k"], tensors.get("positions")
    num_axes = _num_axes(k, positions)
    found = ropes.read(params.rope, _head_dim(k), num_axes)
    to = found if params.to is None else ropes.read(params.to, _head_dim(k), num_axes, "to")
    moved_to = None if params.to is None else to.rope
    call = Shift(k, tensors["delta"], found.rope, positions, moved_to)
    far = _warnings(found, positions, tensors["delta"])
    return Asked(call, tuple(dict.fromkeys(far + to.warnings)))


def _merge(tensors: Tensors, params: NoParams, ropes: Ropes) -> Asked:
    return Asked(Merge(tensors["out"], tensors["lse"]))


def _resolve(tensors: Tensors, params: ResolveParams, ropes: Ropes) -> Asked:
    return Asked(resolve_rope(ropes.read(params.rope, None, None)))


def _positions(tensors: Tensors, params: PositionsParams, ropes: Ropes) -> Asked:
    return Asked(build_positions(params.builder, params.arguments, tensors))


def _each(tensors: Tensors, both: str, of_q: str, of_k: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the tensors of q and of k: given apart, or one for both."""
    if both not in tensors:
        return tensors.get(of_q), tensors.get(of_k)
    if of_q in tensors or of_k in tensors:
        raise ShapeError(both, f"absent where {of_q} or {of_k} is given", "all of them")
    return tensors[both], tensors[both]


def _head_dim(x: Tensor) -> int | None:
    return x.shape[-1] if x.ndim else None


def _num_axes(x: Tensor, positions: Tensor | None) -> int | None:
    """Return how many numbers make up a position, as far as the shapes tell."""
    if positions is None:
        return None
    if positions.ndim == x.ndim - 1:
        return positions.shape[0]
    # [A, S] beside [B, S, H, D], unless it is [B, S]
    several = positions.ndim == 2 and x.ndim == 4 and positions.shape[0] != x.shape[0]
    return positions.shape[0] if several else 1


def _warnings(found: Found, *positions: Tensor | None) -> tuple[str, ...]:
    rope = found.config
    if rope is None or rope.arithmetic == "float64":
        return found.warnings
    for each in positions:
        if each is not None and each.numel() and _farthest(each) > EXACT_IN_FLOAT32:
            text = (
                "arithmetic hf: positions beyond 2**24 are rounded to float32, as in transformers"
            )
            return (*found.warnings, text)
    return found.warnings


def _farthest(positions: Tensor) -> float:
    low, high = positions.aminmax()  # not abs: int64 has no 2**63
    return max(-low.item(), high.item())


ENDPOINTS: tuple[Endpoint[Any], ...] = (
    Endpoint(
        "/v1/rotate",
        "Rotate q and k by the positions of their tokens",
        (),
        ("q", "k", "positions", "cu_seqlens", "frequencies"),
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
            *("sinks", "mask", "frequencies"),
        ),
        ("out", "lse"),
        AttentionParams,
        _attend,
    ),
    Endpoint(
        "/v1/cos_sin",
        "Cosine and sine of every pair's angle",
        ("positions",),
        ("frequencies",),
        ("cos", "sin"),
        CosSinParams,
        _cos_sin,
    ),
    Endpoint(
        "/v1/shift",
        "Move rotated keys to other positions",
        ("k", "delta"),
        ("positions",),
        ("k",),
        ShiftParams,
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
    Endpoint(
        "/v1/resolve",
        "What a model's config says of its rotation",
        (),
        (),
        ("inv_freq",),
        ResolveParams,
        _resolve,
    ),
    Endpoint(
        "/v1/positions",
        "Build the positions of images, videos, packs and groups",
        (),
        TENSOR_ARGUMENTS,
        ("positions",),
        PositionsParams,
        _positions,
        aside=True,
    ),
)
