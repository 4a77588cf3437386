"""Messages of gRPC as plans, and answers as messages."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.errors import BadMessage, BadTensor, printable
from service.oip import tensors
from service.oip.grpc.messages import ModelInferResponse
from service.oip.grpc.wire import join_response
from service.oip.models import Model
from service.oip.request import Input, Plan, Planner
from service.oip.response import describe, tell
from service.wire import Buffer, Message

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


def read_plan(model: Model, planner: Planner, request: Any, raw: list[memoryview]) -> Plan:
    """Read a `ModelInferRequest` and its raw tensors.

    Raises:
        BadMessage, BadTensor, UnknownName, ConfigError, ...: as `Planner.plan`.
    """
    return planner.plan(
        model,
        request.id,
        read_params(request.parameters),
        _inputs(request.inputs, raw),
        ((each.name, read_params(each.parameters)) for each in request.outputs),
    )


def write_response(
    model: Model, plan: Plan, message: Message, more: Mapping[str, bool]
) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`; `more` are parameters beside the answer's."""
    head = describe(model, plan, message)
    told = tell(model, plan, message)
    response = ModelInferResponse(
        **head | {"parameters": _params(head.get("parameters", {}) | more)},
        outputs=[each.head | {"parameters": _params(each.params)} for each in told],
    )
    # one for each output: clients count on their places
    raw = [b"" if each.output.place else tensors.bytes_of(each.tensor) for each in told]
    return join_response(response.SerializeToString(), raw)


def read_params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them; None for a kind that is unknown here."""
    found: dict[str, Any] = {}
    for name, each in given.items():
        kind = each.WhichOneof("parameter_choice")
        if name not in _OF_HTTP:
            found[name] = None if kind is None else getattr(each, kind)
    return found


def _params(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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
        elif each.HasField("contents") or 0 in each.shape:
            carried = _numbers(each)
        yield Input(each.name, each.datatype, [*each.shape], params, carried)
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
