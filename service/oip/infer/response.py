"""What an answer tells, whatever form it goes out in."""

from typing import Any, NamedTuple

from torch import Tensor

from service.oip.infer import tensors
from service.oip.infer.models import VERSION, Model
from service.oip.infer.plan import InferPlan, Output
from service.wire import Message


class Head(NamedTuple):
    """What is told of an output beside its numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    where: tuple[tuple[str, str | int], ...]
    """Parameters that say where it is in shared memory, if it is."""


class OutputTensor(NamedTuple):
    """An output of an answer."""

    head: Head
    tensor: Tensor
    output: Output


def describe(model: Model, plan: InferPlan, message: Message) -> dict[str, Any]:
    """Return what is told beside the outputs."""
    head: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if plan.id:
        head["id"] = plan.id
    told = message.params.values
    params = {name: each for name, each in told.items() if isinstance(each, str | int | float)}
    if warnings := told.get("warnings"):
        params["warnings"] = "\n".join(warnings)
    return head | ({"parameters": params} if params else {})


def render_outputs(model: Model, plan: InferPlan, message: Message) -> list[OutputTensor]:
    """Return the outputs of an answer, in their order; those of shared memory are written there.

    Raises:
        BadRegion: an output has no place where it was to be.
    """
    of = {slot.name: slot.tensor for slot in model.outputs}
    wanted = {name: each for name, each in plan.outputs.items() if of[name] in message.tensors}
    return [_tell(name, message.tensors[of[name]], each) for name, each in wanted.items()]


def _tell(name: str, tensor: Tensor, output: Output) -> OutputTensor:
    datatype, shape = tensors.NAMES[tensor.dtype], tuple(tensor.shape)
    place = output.place
    if place is None:
        return OutputTensor(Head(name, datatype, shape, ()), tensor, output)
    place.span.write(tensors.bytes_of(tensor))
    where: dict[str, str | int] = {
        "shared_memory_region": place.region,
        "shared_memory_byte_size": tensor.nbytes,
    }
    if place.offset:
        where["shared_memory_offset"] = place.offset
    return OutputTensor(Head(name, datatype, shape, tuple(where.items())), tensor, output)
