"""Parse an inference request of any format: check it, and make the message of the endpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.errors import BadMessage, BadTensor, TooLarge, UnknownName
from service.oip import validate
from service.oip.errors import BadRegion
from service.oip.infer import tensors
from service.oip.infer.models import EndpointModel, Model, Slot
from service.oip.infer.params import read_options, translate
from service.oip.infer.plan import HeaderCache, InferPlan, InferRequest, Output
from service.oip.infer.sequence_params import read_sequence
from service.oip.shm.posix import RegionSlice
from service.oip.shm.registry import SharedMemoryRegistry
from service.wire import Buffer, Message, json_codec
from service.wire.typed_json import Numbers

Params = Mapping[str, Any]

_LSE_PARAMS = {"lse", "return_lse"}


@dataclass(frozen=True, slots=True)
class Input:
    """An input as the request has it, not checked yet."""

    name: object
    datatype: object
    shape: object
    params: Params
    data: Buffer | list[Any] | Numbers | None
    """Its bytes or its numbers; None where the request has neither."""


class RequestParser:
    """Parses requests to all models.

    Args:
        regions: of shared memory.
        max_bytes: largest sum of the inputs in shared memory.
    """

    def __init__(self, regions: SharedMemoryRegistry, max_bytes: int) -> None:
        self._regions = regions
        self._max_bytes = max_bytes
        self.header_cache = HeaderCache()

    def has_plain_tensors(self, model: Model, header: bytes, plan: InferPlan) -> bool:
        """Tell whether all inputs and outputs of requests with a parsed header are bytes.

        Then all inputs are views of the request.
        """
        return plan.is_binary and self.header_cache.get(model.name, header) is not None

    def parse(
        self,
        model: Model,
        header: bytes | None,
        request_id: str,
        params: Params,
        inputs: Iterable[Input],
        outputs: Iterable[tuple[object, Params]],
    ) -> InferRequest:
        """Parse a request, and cache its header. Headers of sequences differ, and are not cached.

        Args:
            model: the model that it names.
            header: all of it but its id and the bytes of its tensors; None: do not cache it.
            request_id: the client's name of the request.
            params: parameters of the request.
            inputs: its inputs.
            outputs: names and parameters of the outputs that it lists; an empty list means all.

        Raises:
            BadMessage, BadTensor, UnknownName, ConfigError: the protocol has no such request.
            UnknownRegion, BadRegion: its shared memory is not there.
            TooLarge: its inputs in shared memory are too large.
        """
        binary, queue_s = read_options(params)
        listed = self._list_outputs(model, outputs, binary)
        tensors_by_name, views, region_bytes = self._read_inputs(model, inputs)
        _check_outputs(model, listed, tensors_by_name)
        params = _with_lse(model, listed, params)
        planned = listed or {s.name: Output(binary) for s in model.outputs}
        in_text = not all(output.binary or output.shm for output in planned.values())
        plan = InferPlan(
            planned,
            queue_s,
            json_codec.answer_memory_factor if in_text else 1,
            all(output.binary for output in planned.values()),
            region_bytes,
        )
        if not isinstance(model, EndpointModel):
            sequence, step = read_sequence(model.name, params, tensors_by_name)
            return InferRequest(request_id, plan, Message(tensors_by_name, step), sequence)
        message = Message(tensors_by_name, translate(params, model.endpoint.params))
        request = InferRequest(request_id, plan, message)
        in_regions = any(output.shm for output in planned.values())
        if header is not None and len(views) == len(tensors_by_name) and not in_regions:
            self.header_cache.add(model.name, header, request, views)
        return request

    def _list_outputs(
        self, model: Model, outputs: Iterable[tuple[object, Params]], binary: bool
    ) -> dict[str, Output]:
        """Return the outputs that a request lists; they are `binary` unless they say otherwise."""
        names = [slot.name for slot in model.outputs]
        listed: dict[str, Output] = {}
        for raw_name, params in outputs:
            name = validate.instance("the name of an output", raw_name, str)
            if name not in names:
                raise UnknownName("output", name, names)
            if name in listed:
                raise BadMessage(f"output {name} is listed twice")
            if validate.natural(f"classification of {name}", params.get("classification", 0)):
                raise BadMessage(f"{name}: classification is not served here")
            shm = self._region_slice(name, params)
            as_bytes = params.get("binary_data", binary)
            validate.instance(f"binary_data of {name}", as_bytes, bool)
            if shm is not None and params.get("binary_data"):
                expected = "false for an output in shared memory"
                raise BadMessage(f"{name}: binary_data must be {expected}")
            listed[name] = Output(as_bytes and shm is None, shm)
        return listed

    def _read_inputs(
        self, model: Model, inputs: Iterable[Input]
    ) -> tuple[dict[str, Tensor], list[str], int]:
        """Return tensors by name, names of those that are views, and bytes read from regions."""
        slots = {slot.name: slot for slot in model.inputs}
        read: dict[str, Tensor] = {}
        views: list[str] = []
        region_bytes = 0
        for item in inputs:
            name = validate.instance("the name of an input", item.name, str)
            if name not in slots:
                raise UnknownName("input", name, [*slots])
            slot = slots[name]
            if name in read:
                raise BadMessage(f"input {name} is given twice")
            shm, data = self._region_slice(name, item.params), item.data
            if shm is not None and data is None:
                region_bytes += shm.byte_size
                if region_bytes > self._max_bytes:
                    what = "inputs in shared memory, in bytes,"
                    remedy = "use smaller tensors, or raise ROPE_MAX_BODY_BYTES"
                    raise TooLarge(what, self._max_bytes, f"{region_bytes:,}", remedy)
                data = shm.read()
            elif shm is not None or data is None:
                expected = "given once: as data, in bytes, or in a region of shared memory"
                raise BadTensor(name, expected, "none of them" if shm is None else "several")
            tensor = read[name] = _read_tensor(slot, item, data)
            if shm is None and _is_view(tensor, data):
                views.append(name)
        for name, tensor in read.items():
            if slots[name].has_heads:
                _check_rank(name, tensor, read)
        return read, views, region_bytes

    def _region_slice(self, name: str, params: Params) -> RegionSlice | None:
        if "shared_memory_region" not in params:
            return None
        region = params["shared_memory_region"]
        validate.instance(f"shared_memory_region of {name}", region, str)
        if not self._regions.enabled:
            raise BadRegion(f"{name}: shared memory is not enabled on this service")
        offset = params.get("shared_memory_offset", 0)
        return self._regions.slice(region, offset, params.get("shared_memory_byte_size"))


def _check_outputs(model: Model, listed: Iterable[str], read: Iterable[str]) -> None:
    """Check that the request has the input of each listed output that has the same name."""
    names = {slot.name for slot in model.inputs}
    for name in listed:
        if name in names and name not in read:
            remedy = f"send {name}, or do not list the output"
            raise BadMessage(f"output {name} needs the input {name}, which was not sent: {remedy}")


def _read_tensor(slot: Slot, item: Input, data: Buffer | list[Any] | Numbers) -> Tensor:
    dtype = tensors.dtype_of(slot.name, item.datatype, slot.datatypes)
    if isinstance(data, list | Numbers):
        tensor = tensors.from_numbers(slot.name, dtype, item.shape, data)
    else:
        tensor = tensors.from_bytes(slot.name, dtype, item.shape, data)
    return tensor.long() if slot.datatype == "INT64" and dtype is torch.int32 else tensor


def _check_rank(name: str, tensor: Tensor, read: Mapping[str, Tensor]) -> None:
    packed = any(other.startswith("cu_seqlens") for other in read)
    if tensor.ndim != 4 and not (packed and tensor.ndim == 3):
        expected = "of shape [B, S, H, D], or [T, H, D] with cu_seqlens"
        raise BadTensor(name, expected, f"shape {[*tensor.shape]}")


def _is_view(tensor: Tensor, data: Buffer | list[Any] | Numbers) -> bool:
    """Tell whether any bytes of the same length are such a tensor: not converted, not checked."""
    same_size = not isinstance(data, list | Numbers) and len(data) == tensor.nbytes
    return same_size and tensor.dtype is not torch.bool


def _with_lse(model: Model, listed: Mapping[str, Output], params: Params) -> Params:
    """Return the parameters with which `model` computes lse if the request wants it."""
    if all(slot.name != "lse" for slot in model.outputs):
        return params
    if listed:
        others = {name: value for name, value in params.items() if name not in _LSE_PARAMS}
        return {**others, "return_lse": "lse" in listed}
    return params if _LSE_PARAMS & params.keys() else {**params, "return_lse": True}
