"""Read and write inference over gRPC: a protobuf message with raw tensors."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from service.errors import BadMessage, BadTensor, printable
from service.oip import validate
from service.oip.grpc.messages import ModelInferRequest, ModelInferResponse
from service.oip.grpc.protobuf_wire import MAX_FIELDS, SplitRequest, join_response
from service.oip.infer import response, tensors
from service.oip.infer.models import ROPE_SESSION, VERSION, Model
from service.oip.infer.parse import Input, RequestParser
from service.oip.infer.plan import MAX_HEADER_BYTES, InferPlan, InferRequest
from service.oip.infer.response import OutputHeader
from service.wire import Buffer, Message
from service.wire.elements import MAX_RANK

CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Fields of typed numbers by datatype. Numbers of 16 bits have none: they are raw."""

_HTTP_PARAMS = frozenset(("binary_data", "binary_data_size", "binary_data_output"))
"""Parameters that gRPC does not have."""

_PARAM_FIELDS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class ParsedRequest(NamedTuple):
    """A `ModelInferRequest`, parsed but not checked."""

    message: Any
    """The message without its id and its raw tensors."""
    split: SplitRequest


def parse(split: SplitRequest) -> ParsedRequest:
    """Parse a request.

    Raises:
        DecodeError: it is no `ModelInferRequest`.
    """
    header = split.header
    can_recur = len(header) <= MAX_HEADER_BYTES and not is_of_sequence(header)
    message = (_parse_cached if can_recur else ModelInferRequest.FromString)(header)
    return ParsedRequest(message, split)


def is_of_sequence(header: bytes) -> bool:
    """Tell whether a request whose first field is the name of its model is one of a sequence.

    These have other parameters each time, which would push all others out of caches.
    """
    return header.startswith(_OF_SEQUENCE)


_OF_SEQUENCE = bytes(ModelInferRequest(model_name=ROPE_SESSION.name).SerializeToString())

_parse_cached = lru_cache(maxsize=1024)(ModelInferRequest.FromString)


def decode(model: Model, parser: RequestParser, request: ParsedRequest) -> InferRequest:
    """Check a request to `model`, and read its tensors.

    Raises:
        ServiceError, RopeError: as `RequestParser.parse`.
    """
    message, (header, request_id, raw) = request
    validate.name("id", request_id)
    cached = parser.header_cache.get(model.name, header)
    if cached and (decoded := cached.read_pieces(request_id, raw)):
        return decoded
    return parser.parse(
        model,
        header,
        request_id,
        {**read_params(message.parameters), "binary_data_output": True},
        _inputs(message.inputs, raw),
        ((output.name, read_params(output.parameters)) for output in message.outputs),
    )


def encode(
    model: Model, request_id: str, plan: InferPlan, message: Message, params: Mapping[str, Any]
) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`; `params` are added to those of the answer.

    Raises:
        BadRegion: an output does not fit its place in shared memory.
    """
    outputs = response.render_outputs(plan, message)
    header = _write_header(model.name, tuple(output.header for output in outputs))
    if params := {**response.read_params(message), **params}:
        described = ModelInferResponse(parameters=write_params(params))
        header += described.SerializeToString(deterministic=True)  # else the order may vary
    # one for each output: clients find an output's bytes by its index
    raw = [b"" if o.output.shm else tensors.to_bytes(o.tensor) for o in outputs]
    return join_response(header, request_id, raw)


@lru_cache(maxsize=1024)
def _write_header(model: str, outputs: tuple[OutputHeader, ...]) -> bytes:
    described = [
        {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
            "parameters": write_params(dict(output.shm_params)),
        }
        for output in outputs
    ]
    message = ModelInferResponse(model_name=model, model_version=VERSION, outputs=described)
    return bytes(message.SerializeToString())


def read_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of parameters; None for one of an unknown type."""
    if len(params) > MAX_FIELDS:
        raise BadMessage(f"there may be {MAX_FIELDS} parameters, got {len(params)}")
    values: dict[str, Any] = {}
    for name, param in params.items():
        field = param.WhichOneof("parameter_choice")
        if name not in _HTTP_PARAMS:
            values[name] = None if field is None else getattr(param, field)
    return values


def write_params(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return values as messages of parameters have them."""
    return {name: {_PARAM_FIELDS[type(value)]: value} for name, value in values.items()}


def _inputs(inputs: Any, raw: list[memoryview]) -> Iterator[Input]:
    """Yield the inputs: all raw tensors, or all typed numbers."""
    rest = iter(raw)
    for item in inputs:
        params = read_params(item.parameters)
        data: Buffer | list[Any] | None = None
        if raw and item.HasField("contents"):
            raise BadTensor(item.name, "without contents where raw_input_contents are", "both")
        if raw and "shared_memory_region" not in params:
            data = next(rest, None)
            if data is None:
                expected = "in raw_input_contents, one for each input not in shared memory"
                raise BadTensor(item.name, expected, f"{len(raw)} of them")
        elif item.HasField("contents") or 0 in item.shape[:MAX_RANK]:
            data = _read_contents(item)
        yield Input(item.name, item.datatype, [*item.shape[: MAX_RANK + 1]], params, data)
    if extra := len([*rest]):
        raise BadMessage(f"raw_input_contents has {extra} more than there are inputs")


def _read_contents(item: Any) -> list[Any]:
    """Return the typed numbers of an input, which must be in the field of its datatype.

    There are none for a datatype that no input has: the parser refuses it.
    """
    if item.datatype not in tensors.DATATYPES:
        return []
    field = CONTENTS.get(item.datatype)
    for filled, _ in item.contents.ListFields():
        if filled.name != field:
            expected = f"in {field or 'raw_input_contents'}, as {printable(item.datatype)} is"
            raise BadTensor(item.name, expected, filled.name)
    return [*getattr(item.contents, field)] if field else []
