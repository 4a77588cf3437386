"""Parameters of a request of a sequence: its id, its flags, a configuration, and a step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from service.endpoints.rope_params import ROPE_PARAMS
from service.errors import BadMessage
from service.oip.errors import UnknownSequence
from service.oip.infer.params import checked_params, merge_rope, parameters_of, parse_text
from service.sessions.creation.session_params import CompactParams, SessionAttention
from service.sessions.operations.token_request import STEP
from service.wire import NO_PARAMETERS, Parameters

SequenceId = int | str
"""A number of 64 bits, or a text. The number and the text of its digits are two ids."""

MAX_ID_BYTES = 128
"""Longest text of an id, as Triton has it."""

STEP_PARAMS = tuple(name for name in STEP.params if name != "layers")
"""Parameters of a step. `layers` is a member of a configuration here."""


class SequenceParams(NamedTuple):
    """What a request of a sequence says beside its step."""

    id: SequenceId
    is_start: bool
    is_end: bool
    configuration: Parameters
    """Of the session to create; empty without `sequence_start`."""


def read_sequence(
    model: str, params: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[SequenceParams, Parameters]:
    """Return the parameters of a sequence, and those of its step.

    Args:
        model: name of the model.
        params: of the request; `read_options` has checked those of the protocol.
        tensors: inputs of the request.

    Raises:
        UnknownSequence: the request has no sequence id.
        BadMessage, ConfigError: a value is not valid.
    """
    sequence_id: SequenceId = params.get("sequence_id", 0)
    if not sequence_id:
        raise UnknownSequence(
            f"inference request to model '{model}' must specify a non-zero or non-empty "
            "correlation ID"
        )
    if isinstance(sequence_id, str) and len(sequence_id.encode()) > MAX_ID_BYTES:
        raise BadMessage(f"a sequence_id that is text may have at most {MAX_ID_BYTES} bytes")
    is_start = params.get("sequence_start", False)
    configuration: dict[str, Any] = {}
    step: dict[str, Any] = {}
    for _, name, value in checked_params(params):
        values = configuration if is_start and name not in STEP_PARAMS else step
        if name in values:
            raise BadMessage(f"parameter {name} is given twice")
        values[name] = parse_text(name, value)
    made = parameters_of(_configuration(configuration, tensors)) if is_start else NO_PARAMETERS
    is_end = params.get("sequence_end", False)
    return SequenceParams(sequence_id, is_start, is_end, made), parameters_of(step)


def _configuration(params: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of a session, as `POST /v1/sessions` has it.

    Members of `rope` and of `attention` may be parameters of their own; dtype may be that of q.
    """
    values = dict(params)
    if "dtype" not in values and "q" in tensors:
        values["dtype"] = str(tensors["q"].dtype).removeprefix("torch.")
    if "groups" in values:
        return values
    _collect(values, "attention", SessionAttention.model_fields.keys())
    if not values.keys() & {"preset", "config"}:
        _collect(values, "rope", ROPE_PARAMS - CompactParams.model_fields.keys())
    return values


def _collect(values: dict[str, Any], name: str, members: frozenset[str] | Any) -> None:
    """Move parameters that are members of an object into the object."""
    found = {member: values.pop(member) for member in [*values] if member in members}
    if found:
        values[name] = merge_rope(values.get(name, {}), found)
