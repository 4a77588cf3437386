"""What each route reads from a message, and what it writes to one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rope_core import (
    Attended,
    ConfigError,
    Result,
    Rotated,
    ShapeError,
    Table,
)
from service.endpoints import builders
from service.endpoints.builders import PreparedCall, Tensors
from service.endpoints.params import (
    AttentionParams,
    CosSinParams,
    MergeParams,
    PositionsParams,
    ResolveParams,
    RotateParams,
    ShiftParams,
)
from service.endpoints.resolve import TENSOR_ARGUMENTS
from service.endpoints.rope_resolver import FORMS, RopeResolver
from service.errors import BadMessage, TooLarge, UnknownName, printable
from service.wire import Message

P = TypeVar("P", bound=BaseModel)

INLINE_PARAMS_BYTES = 2**14
"""Longer texts of parameters are read anew each time, and beside the event loop."""

MAX_PARAMS_BYTES = 2**18
"""Longest text of parameters: many times what the config.json of any model takes."""


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
    call: Callable[[Tensors, P, RopeResolver], PreparedCall]
    run_blocking: bool = False
    """Whether `call` may take so long that it must not hold up the event loop."""
    names: frozenset[str] = field(init=False)
    """Names of the tensors it knows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset((*self.required, *self.optional)))

    def read(self, message: Message, rope_resolver: RopeResolver) -> PreparedCall:
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
        read = _read_params if len(text) > INLINE_PARAMS_BYTES else _read_known
        return self.call(tensors, read(self.params, text), rope_resolver)


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


ENDPOINTS: tuple[Endpoint[Any], ...] = (
    Endpoint(
        "/v1/rotate",
        "Rotate q and k by the positions of their tokens",
        (),
        ("q", "k", "positions", "cu_seqlens", "frequencies"),
        ("q", "k"),
        RotateParams,
        builders.build_rotate,
    ),
    Endpoint(
        "/v1/attention",
        "Rotate q and k, then attend",
        ("q", "k", "v"),
        (
            *("positions", "q_positions", "k_positions"),
            *("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
            *("sinks", "mask", "frequencies", "q_index", "k_index"),
        ),
        ("out", "lse"),
        AttentionParams,
        builders.build_attend,
    ),
    Endpoint(
        "/v1/cos_sin",
        "Cosine and sine of every pair's angle",
        ("positions",),
        ("frequencies",),
        ("cos", "sin"),
        CosSinParams,
        builders.build_cos_sin,
    ),
    Endpoint(
        "/v1/shift",
        "Move rotated keys to other positions",
        ("k", "delta"),
        ("positions",),
        ("k",),
        ShiftParams,
        builders.build_shift,
    ),
    Endpoint(
        "/v1/merge",
        "Merge attention over parts of the keys",
        ("out", "lse"),
        (),
        ("out", "lse"),
        MergeParams,
        builders.build_merge,
    ),
    Endpoint(
        "/v1/resolve",
        "What a model's config says of its rotation",
        (),
        (),
        ("inv_freq",),
        ResolveParams,
        builders.build_resolve,
    ),
    Endpoint(
        "/v1/positions",
        "Build the positions of images, videos, packs and groups",
        (),
        TENSOR_ARGUMENTS,
        ("positions",),
        PositionsParams,
        builders.build_positions_answer,
        run_blocking=True,
    ),
)
