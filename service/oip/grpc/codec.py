"""Messages of gRPC as plans, and answers as messages."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from service.errors import BadMessage, BadTensor, printable
from service.oip.grpc.messages import ModelInferRequest, ModelInferResponse
from service.oip.grpc.protobuf_wire import MAX_FIELDS, Split, join_response
from service.oip.infer import tensors
from service.oip.infer.models import VERSION, Model
from service.oip.infer.parse import Input, RequestParser
from service.oip.infer.plan import MAX_HEAD_BYTES, InferPlan
from service.oip.infer.response import Head, describe, render_outputs
from service.wire import Buffer, Message
from service.wire.message import MAX_RANK

CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where typed numbers are, by datatype; those of 16 bits are raw only."""

_OF_HTTP = frozenset(("binary_data", "binary_data_size", "binary_data_output"))
"""Parameters that have no meaning here."""

_PARAMETER = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class Request(NamedTuple):
    """A `ModelInferRequest`."""

    message: Any
    """All of it but what follows."""
    head: bytes
    """That, serialized."""
    id: str
    raw: list[memoryview]
    """Its raw tensors."""


def parse(split: Split) -> Request:
    """Read a request.

    Raises:
        DecodeError: it is none.
    """
    read = _read_known if len(split.head) <= MAX_HEAD_BYTES else ModelInferRequest.FromString
    return Request(read(split.head), *split)


_read_known = lru_cache(maxsize=1024)(ModelInferRequest.FromString)


def read_plan(model: Model, parser: RequestParser, request: Request) -> InferPlan:
    """Return what to do for a request.

    Raises:
        BadMessage, BadTensor, UnknownName, ConfigError, ...: as `Planner.plan`.
    """
    known = parser.heads.find(model.name, request.head)
    plan = known and known.of_pieces(request.id, request.raw)
    return plan or _read_plan(model, parser, request.message, request)


def _read_plan(model: Model, parser: RequestParser, request: Any, split: Request) -> InferPlan:
    return parser.plan(
        model,
        split.head,
        split.id,
        read_params(request.parameters),
        _inputs(request.inputs, split.raw),
        ((each.name, read_params(each.parameters)) for each in request.outputs),
    )


def write_response(
    model: Model, plan: InferPlan, message: Message, more: Mapping[str, bool]
) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`; `more` are parameters beside the answer's."""
    told = render_outputs(model, plan, message)
    head = _head(model.name, tuple(each.head for each in told))
    if params := {**describe(model, plan, message).get("parameters", {}), **more}:
        head += ModelInferResponse(parameters=write_params(params)).SerializeToString()
    # one for each output: clients count on their places
    raw = [b"" if each.output.place else tensors.bytes_of(each.tensor) for each in told]
    return join_response(head, plan.id, raw)


@lru_cache(maxsize=1024)
def _head(model: str, outputs: tuple[Head, ...]) -> bytes:
    told = [
        {
            "name": each.name,
            "datatype": each.datatype,
            "shape": each.shape,
            "parameters": write_params(dict(each.where)),
        }
        for each in outputs
    ]
    response = ModelInferResponse(model_name=model, model_version=VERSION, outputs=told)
    return bytes(response.SerializeToString())


def read_params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them; None for a kind that is unknown here."""
    if len(given) > MAX_FIELDS:
        raise BadMessage(f"there may be {MAX_FIELDS} parameters, got {len(given)}")
    found: dict[str, Any] = {}
    for name, each in given.items():
        kind = each.WhichOneof("parameter_choice")
        if name not in _OF_HTTP:
            found[name] = None if kind is None else getattr(each, kind)
    return found


def write_params(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return parameters as messages have them."""
    return {name: {_PARAMETER[type(each)]: each} for name, each in given.items()}


def _inputs(inputs: Any, raw: list[memoryview]) -> Iterator[Input]:
    rest = iter(raw)
    for each in inputs:
        params = read_params(each.parameters)
        carried: Buffer | list[Any] | None = None
        if raw and each.HasField("contents"):
            raise BadTensor(each.name, "without contents where raw_input_contents are", "both")
        if raw and "shared_memory_region" not in params:
            carried = next(rest, None)
            if carried is None:
                expected = "in raw_input_contents, one for each input not in shared memory"
                raise BadTensor(each.name, expected, f"{len(raw)} of them")
        elif each.HasField("contents") or 0 in each.shape[:MAX_RANK]:
            carried = _numbers(each)
        yield Input(each.name, each.datatype, [*each.shape[: MAX_RANK + 1]], params, carried)
    if left := len([*rest]):
        raise BadMessage(f"raw_input_contents has {left} more than there are inputs")


def _numbers(given: Any) -> list[Any]:
    """Return the typed numbers of an input: of the field that is its datatype's, and no other."""
    name, datatype = given.name, printable(given.datatype)
    own = CONTENTS.get(given.datatype)
    filled = [field.name for field, _ in given.contents.ListFields()]
    if others := [each for each in filled if each != own]:
        where = f"in {own}" if own else "in raw_input_contents"
        raise BadTensor(name, f"{where}, as {datatype} is", f"{others[0]}")
    return [*getattr(given.contents, own)] if own else []
