"""The table of routes: what each reads from a message, and the message of its answer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rope_core import ConfigError, Result, ShapeError, Table, presets
from rope_core.calls import tensor_fields
from service.endpoints import builders
from service.endpoints.builders import PreparedCall, Tensors
from service.endpoints.comparison import answer_compare
from service.endpoints.diagnosis import (
    ATTENTION_TENSORS,
    DIAGNOSIS_TENSORS,
    EVIDENCE,
    answer_diagnose,
)
from service.endpoints.params import (
    AttentionParams,
    CompareParams,
    CosSinParams,
    DiagnoseParams,
    LayoutParams,
    MergeParams,
    PositionsParams,
    ResolveParams,
    RotateParams,
    ShiftParams,
)
from service.endpoints.position_builders import TENSOR_ARGUMENTS, answer_positions
from service.endpoints.resolve import answer_resolve, length_params
from service.endpoints.rope_params import FORMS, ROPE_PARAMS, ROPES
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.tensor_layout import explain_layout
from service.errors import BadMessage, MissingTensor, TooLarge, UnknownName, printable
from service.wire import NO_PARAMETERS, Message, Parameters

P = TypeVar("P", bound=BaseModel)

INLINE_PARAMS_BYTES = 2**14
"""Longer texts of parameters are parsed in a thread, and the result is not cached."""

MAX_PARAMS_BYTES = presets.MAX_BYTES
"""Longest text of parameters: that of the largest config.json."""

MAX_PARAMS_DEPTH = 200
"""Most objects and lists that parameters nest, one within the other."""


@dataclass(frozen=True, kw_only=True)
class Endpoint(Generic[P]):
    """One route: `POST path`."""

    path: str
    summary: str

    required: tuple[str, ...] = ()
    """Names of the tensors that a message must have."""

    optional: tuple[str, ...] = ()
    """Names of the tensors that a message may have."""

    outputs: tuple[str, ...]
    """Names of the tensors of the answer."""

    has_other_outputs: bool = False
    """Whether an answer may have tensors of other names."""

    params: type[P]

    build: Callable[[Tensors, P, RopeResolver], PreparedCall | Message]
    """Returns a call for the device, or the answer where the endpoint needs no device."""

    needs_device: bool = True
    """Whether a request may have to wait for the device."""

    is_slow: bool = False
    """Whether `build` may run too long for the event loop."""

    needs_worker: bool = False
    """Whether `build` takes seconds, so that the worker process runs it."""

    @cached_property
    def operation(self) -> str:
        """Name of the operation in metrics."""
        return self.path.removeprefix("/v1/")

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all tensors that a message may have."""
        return frozenset((*self.required, *self.optional))

    def read(self, message: Message, resolver: RopeResolver) -> PreparedCall | Message:
        """Return the call that a message describes, or the answer where it needs no device.

        Raises:
            UnknownName: the message has a tensor or a parameter that this route does not have.
            TooLarge: its parameters are too long.
            BadMessage, RopeError: a tensor or a parameter does not fit.
        """
        tensors = message.tensors
        for name in self.required:
            if name not in tensors:
                raise MissingTensor(name)
        if not tensors.keys() <= self.names:
            name = min(tensors.keys() - self.names)
            raise UnknownName("tensor", name, [*self.required, *self.optional])
        num_bytes = len(message.params.key)
        if num_bytes > MAX_PARAMS_BYTES:
            raise self.too_long(message.params)
        parse = _parse_params if num_bytes > INLINE_PARAMS_BYTES else _parse_params_cached
        params = parse(self.params, message.params)
        try:
            return self.build(tensors, params, resolver)
        except ShapeError as failure:
            if not isinstance(params, LayoutParams):
                raise
            raise explain_layout(failure, self.build, tensors, params, resolver) from None

    def too_long(self, params: Parameters) -> UnknownName | TooLarge:
        """Return the error of parameters that are longer than MAX_PARAMS_BYTES."""
        names = self.params.model_fields
        if unknown := params.values.keys() - names.keys():
            return UnknownName("parameter", min(unknown), list(names))
        return TooLarge("parameters, in bytes,", MAX_PARAMS_BYTES, f"{len(params.key):,}")


def _parse_params(model: type[P], params: Parameters) -> P:
    check_depth(params.values)
    try:
        return model.model_validate(params.values)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False)[0]
    kind, path = first["type"], [str(part) for part in first["loc"] or ("params",)]
    form: type[BaseModel] = model
    expected = first["msg"].removeprefix("Input should be ")
    if kind in ("dict_type", "model_type"):
        expected = "an object"
    if path[0] in ROPES and len(path) > 1:
        form = FORMS[path.pop(1)]  # the tag of a union, which the client did not write
        expected = expected if len(path) > 1 else "an object or the name of a preset"
    name = ".".join(path)
    if kind == "extra_forbidden":
        is_of_rope = name in ROPE_PARAMS and "rope" in form.model_fields
        hint = f'did you mean {name} in "rope"?' if is_of_rope else ""
        raise UnknownName("parameter", name, list(form.model_fields), hint)
    if kind == "missing":
        raise ConfigError(name, "given", "none")
    got = json.dumps(first["input"], default=repr)
    raise ConfigError(name, expected, printable(got))


_parse_params_cached = lru_cache(maxsize=256)(_parse_params)


def check_depth(values: Mapping[str, Any]) -> None:
    """Raise BadMessage if parameters are nested deeper than MAX_PARAMS_DEPTH."""
    level: list[Any] = [values]
    for _ in range(MAX_PARAMS_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise BadMessage("parameters are nested too deep")


def write(result: Result, prepared: PreparedCall) -> Message:
    """Return the message that answers a call with `result`."""
    values: dict[str, Any] = {"warnings": prepared.warnings} if prepared.warnings else {}
    if prepared.length is not None:
        values |= length_params("length", prepared.length)
    if prepared.to_length is not None:
        values |= length_params("to_length", prepared.to_length)
    if isinstance(result, Table):
        values["attention_scaling"] = result.attention_scaling
    return Message(tensor_fields(result), Parameters.of(values) if values else NO_PARAMETERS)


ENDPOINTS: tuple[Endpoint[Any], ...] = (
    Endpoint(
        path="/v1/rotate",
        summary="Rotate q and k by the positions of their tokens",
        optional=("q", "k", "positions", "cu_seqlens", "frequencies"),
        outputs=("q", "k"),
        params=RotateParams,
        build=builders.build_rotate,
    ),
    Endpoint(
        path="/v1/attention",
        summary="Rotate q and k, then attend",
        required=("q", "k", "v"),
        optional=(
            *("positions", "q_positions", "k_positions"),
            *("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
            *("sinks", "mask", "frequencies", "q_index", "k_index"),
        ),
        outputs=("out", "lse"),
        params=AttentionParams,
        build=builders.build_attend,
    ),
    Endpoint(
        path="/v1/cos_sin",
        summary="Cosine and sine of every pair's angle",
        required=("positions",),
        optional=("frequencies",),
        outputs=("cos", "sin"),
        params=CosSinParams,
        build=builders.build_cos_sin,
    ),
    Endpoint(
        path="/v1/shift",
        summary="Move rotated keys to other positions",
        required=("k", "delta"),
        optional=("positions",),
        outputs=("k",),
        params=ShiftParams,
        build=builders.build_shift,
    ),
    Endpoint(
        path="/v1/merge",
        summary="Merge attention over parts of the keys",
        required=("out", "lse"),
        outputs=("out", "lse"),
        params=MergeParams,
        build=builders.build_merge,
    ),
    Endpoint(
        path="/v1/resolve",
        summary="Resolve a rope: parameters, frequencies, provenance, ignored keys, warnings",
        outputs=("inv_freq", "inv_freq_unscaled", "pairs", "pair_axis"),
        params=ResolveParams,
        build=answer_resolve,
        needs_device=False,
    ),
    Endpoint(
        path="/v1/positions",
        summary="Build the positions of images, videos, packs and groups",
        optional=TENSOR_ARGUMENTS,
        outputs=("positions",),
        has_other_outputs=True,
        params=PositionsParams,
        build=answer_positions,
        needs_device=False,
        is_slow=True,
    ),
    Endpoint(
        path="/v1/diagnose",
        summary="Find out which mistake explains numbers that differ",
        optional=(*EVIDENCE, "positions", *ATTENTION_TENSORS),
        outputs=DIAGNOSIS_TENSORS,
        params=DiagnoseParams,
        build=answer_diagnose,
        needs_device=False,
        needs_worker=True,
    ),
    Endpoint(
        path="/v1/compare",
        summary="Compare two ropes: parameters, angles, and the first position that differs",
        outputs=("inv_freq", "inv_freq_other"),
        params=CompareParams,
        build=answer_compare,
        needs_device=False,
        is_slow=True,
    ),
)
