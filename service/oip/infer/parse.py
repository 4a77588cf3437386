"""What a request asks of a model, whatever form it came in: checked, and read into a message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.errors import BadMessage, BadTensor, TooLarge, UnknownName
from service.oip import validate
from service.oip.infer import tensors
from service.oip.infer.models import Model, Slot
from service.oip.infer.params import Control, translate
from service.oip.infer.plan import HeaderCache, InferPlan, Output, ShmRef
from service.oip.shm.registry import SharedMemoryRegistry
from service.wire import Buffer, Message

Params = Mapping[str, Any]

_OF_LSE = {"lse", "return_lse"}


@dataclass(frozen=True, slots=True)
class Input:
    """An input as a request has it, before any check."""

    name: object
    datatype: object
    shape: object
    params: Params
    carried: Buffer | list[Any] | None
    """Its bytes, or its numbers; None where it has neither."""


class RequestParser:
    """Reads requests of all models.

    Args:
        regions: of shared memory.
        max_bytes: most that a request may bring, in regions, too.
    """

    def __init__(self, regions: SharedMemoryRegistry, max_bytes: int) -> None:
        self._regions = regions
        self._max_bytes = max_bytes
        self.heads = HeaderCache()

    @property
    def reads_regions(self) -> bool:
        """Whether a short request may have long tensors."""
        return self._regions.enabled

    def plan(
        self,
        model: Model,
        head: bytes | None,
        request_id: str,
        params: Params,
        inputs: Iterable[Input],
        outputs: Iterable[tuple[object, Params]],
    ) -> InferPlan:
        """Read a request.

        Args:
            model: whom it asks.
            head: all of it but its id and the bytes of its tensors, to be kept; None
                where it is too long.
            request_id: the client's name for it.
            params: its own parameters.
            inputs: its inputs.
            outputs: names and parameters of those it lists; where it lists none, all come.

        Raises:
            BadMessage, BadTensor, UnknownName, ConfigError: it is not as the protocol says.
            UnknownRegion, BadRegion, SharedMemoryOff: its shared memory is not there.
            TooLarge: there is too much in it.
        """
        control = Control.of(params)
        listed = self._list_outputs(model, outputs, control.binary_data_output)
        found, views, region_bytes = self._read_inputs(model, inputs)
        asked = _with_lse(model, listed, params)
        wanted = listed or {s.name: Output(control.binary_data_output) for s in model.outputs}
        plan = InferPlan(
            request_id,
            Message(found, translate(asked, model.endpoint.params)),
            wanted,
            not all(each.binary or each.place for each in wanted.values()),
            control.timeout_us / 1e6 if control.timeout_us else None,
            region_bytes,
        )
        if len(views) == len(found) and not any(each.place for each in wanted.values()):
            self.heads.keep(model.name, head, plan, views)
        return plan

    def _list_outputs(
        self, model: Model, outputs: Iterable[tuple[object, Params]], binary: bool
    ) -> dict[str, Output]:
        known = [slot.name for slot in model.outputs]
        listed: dict[str, Output] = {}
        for given, params in outputs:
            name = validate.text("the name of an output", given)
            if name not in known:
                raise UnknownName("output", name, known)
            if name in listed:
                raise BadMessage(f"output {name} is asked for twice")
            if validate.natural(f"classification of {name}", params.get("classification", 0)):
                raise BadMessage(f"{name}: classification is not served here")
            place = self._place(name, params)
            in_bytes = validate.boolean(f"binary_data of {name}", params.get("binary_data", binary))
            if place is not None and params.get("binary_data"):
                raise BadMessage(f"{name}: binary_data must be false where it is in shared memory")
            listed[name] = Output(in_bytes and place is None, place)
        return listed

    def _read_inputs(
        self, model: Model, inputs: Iterable[Input]
    ) -> tuple[dict[str, Tensor], list[str], int]:
        """Return the tensors, names of those that are the request's bytes, and bytes of others."""
        slots = {slot.name: slot for slot in model.inputs}
        found: dict[str, Tensor] = {}
        views: list[str] = []
        region_bytes = 0
        for given in inputs:
            name = validate.text("the name of an input", given.name)
            if name not in slots:
                raise UnknownName("input", name, [*slots])
            if slots[name].tensor in found:
                raise BadMessage(f"input {name} is given twice")
            place, carried = self._place(name, given.params), given.carried
            if place is not None and carried is None:
                region_bytes += place.span.byte_size
                if region_bytes > self._max_bytes:
                    what = "inputs in shared memory, in bytes,"
                    raise TooLarge(what, self._max_bytes, f"{region_bytes:,}")
                carried = place.span.read()
            elif place is not None or carried is None:
                expected = "given once: as data, in bytes, or in a region of shared memory"
                raise BadTensor(name, expected, "none of them" if place is None else "several")
            tensor = found[slots[name].tensor] = _read_tensor(slots[name], given, carried)
            if place is None and _is_view(tensor, carried):
                views.append(slots[name].tensor)
        for slot in slots.values():
            if not slot.optional and slot.tensor not in found:
                raise BadTensor(slot.name, "an input of the request", "none")
            if slot.is_heads and slot.tensor in found:
                _check_rank(slot.name, found[slot.tensor], found)
        return found, views, region_bytes

    def _place(self, name: str, params: Params) -> ShmRef | None:
        if "shared_memory_region" not in params:
            return None
        region = validate.text(f"shared_memory_region of {name}", params["shared_memory_region"])
        offset = params.get("shared_memory_offset", 0)
        span = self._regions.slice(region, offset, params.get("shared_memory_byte_size"))
        return ShmRef(region, offset, span)


def _read_tensor(slot: Slot, given: Input, carried: Buffer | list[Any]) -> Tensor:
    dtype = tensors.dtype_of(slot.name, given.datatype)
    if isinstance(carried, list):
        tensor = tensors.of_numbers(slot.name, dtype, given.shape, carried)
    else:
        tensor = tensors.of_bytes(slot.name, dtype, given.shape, carried)
    return tensor.long() if slot.datatype == "INT64" and dtype is torch.int32 else tensor


def _check_rank(name: str, heads: Tensor, found: Mapping[str, Tensor]) -> None:
    packed = any(each.startswith("cu_seqlens") for each in found)
    if heads.ndim != 4 and not (packed and heads.ndim == 3):
        expected = "of shape [B, S, H, D], or [T, H, D] beside cu_seqlens"
        raise BadTensor(name, expected, f"shape {[*heads.shape]}")


def _is_view(tensor: Tensor, carried: Buffer | list[Any]) -> bool:
    """Tell whether a tensor is its bytes, of whatever value, and these are not converted."""
    as_long = not isinstance(carried, list) and len(carried) == tensor.nbytes
    return as_long and tensor.dtype is not torch.bool


def _with_lse(model: Model, listed: Mapping[str, Output], params: Params) -> Params:
    """Return the parameters by which the outputs of `model` are those that are asked for."""
    if all(slot.name != "lse" for slot in model.outputs):
        return params
    if listed:
        rest = {name: each for name, each in params.items() if name not in _OF_LSE}
        return {**rest, "return_lse": "lse" in listed}
    return params if _OF_LSE & params.keys() else {**params, "return_lse": True}
