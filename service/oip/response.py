"""What an answer tells, whatever form it goes out in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from torch import Tensor

from service.oip import tensors
from service.oip.models import VERSION, Model
from service.oip.request import Output, Plan
from service.wire import Message


@dataclass(frozen=True, slots=True)
class Told:
    """An output of an answer."""

    head: dict[str, Any]
    """Its name, datatype and shape."""
    tensor: Tensor
    output: Output
    params: Mapping[str, str | int]
    """Where it is in shared memory, if it is."""


def describe(model: Model, plan: Plan, message: Message) -> dict[str, Any]:
    """Return what is told beside the outputs."""
    head: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if plan.id:
        head["id"] = plan.id
    told = orjson.loads(message.params)
    params = {name: each for name, each in told.items() if isinstance(each, str | int | float)}
    if warnings := told.get("warnings"):
        params["warnings"] = "\n".join(warnings)
    return head | ({"parameters": params} if params else {})


def tell(model: Model, plan: Plan, message: Message) -> list[Told]:
    """Return the outputs of an answer, in their order; those of shared memory are written there.

    Raises:
        BadRegion: an output has no place where it was to be.
    """
    of = {slot.name: slot.tensor for slot in model.outputs}
    wanted = {name: each for name, each in plan.outputs.items() if of[name] in message.tensors}
    return [_tell(name, message.tensors[of[name]], each) for name, each in wanted.items()]


def _tell(name: str, tensor: Tensor, output: Output) -> Told:
    head = {"name": name, "datatype": tensors.NAMES[tensor.dtype], "shape": [*tensor.shape]}
    place = output.place
    if place is None:
        return Told(head, tensor, output, {})
    place.span.write(tensors.bytes_of(tensor))
    where: dict[str, str | int] = {
        "shared_memory_region": place.region,
        "shared_memory_byte_size": tensor.nbytes,
    }
    if place.offset:
        where["shared_memory_offset"] = place.offset
    return Told(head, tensor, output, where)
