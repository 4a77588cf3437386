"""The content of an answer, in whatever format it is written."""

from typing import Any, NamedTuple

from torch import Tensor

from service.oip.infer import tensors
from service.oip.infer.models import VERSION, Model
from service.oip.infer.plan import InferPlan, Output
from service.wire import Message


class OutputHeader(NamedTuple):
    """The description of an output, without its numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    shm_params: tuple[tuple[str, str | int], ...]
    """Its parameters that name its place in shared memory; empty where it is not there."""


class OutputTensor(NamedTuple):
    """An output of an answer."""

    header: OutputHeader
    tensor: Tensor
    output: Output


def describe(model: Model, request_id: str, message: Message) -> dict[str, Any]:
    """Return the members of an answer, without its outputs."""
    header: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if request_id:
        header["id"] = request_id
    if params := read_params(message):
        header["parameters"] = params
    return header


def read_params(message: Message) -> dict[str, str | int | float]:
    """Return the parameters of an answer: numbers and texts, for the protocol has no others."""
    values = message.params.values
    params = {name: v for name, v in values.items() if isinstance(v, str | int | float)}
    if warnings := values.get("warnings"):
        params["warnings"] = "\n".join(warnings)
    return params


def render_outputs(plan: InferPlan, message: Message) -> list[OutputTensor]:
    """Return the outputs of an answer in order, and write those in shared memory there.

    Raises:
        BadRegion: an output does not fit its place.
    """
    return [
        _render(name, message.tensors[name], output)
        for name, output in plan.outputs.items()
        if name in message.tensors
    ]


def _render(name: str, tensor: Tensor, output: Output) -> OutputTensor:
    params: dict[str, str | int] = {}
    if shm := output.shm:
        shm.write(tensors.to_bytes(tensor))
        params = {"shared_memory_region": shm.region, "shared_memory_byte_size": tensor.nbytes}
        if shm.offset:
            params["shared_memory_offset"] = shm.offset
    datatype, shape = tensors.NAMES[tensor.dtype], tuple(tensor.shape)
    return OutputTensor(OutputHeader(name, datatype, shape, (*params.items(),)), tensor, output)
