"""A call as it is brought to a device: which tensors, and which of them are to become one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rope_core import Call, Result
from rope_core.calls import tensor_fields, with_fields


class ConcatInput:
    """Tensors that are to lie end to end along an axis, as one."""

    __slots__ = ("axis", "dtype", "parts", "shape")

    def __init__(self, parts: Sequence[Tensor], axis: int = 0) -> None:
        self.parts = parts
        self.axis = axis
        first = parts[0]
        dtype, shape = first.dtype, [*first.shape]
        for part in parts[1:]:
            if part.dtype is not dtype:
                dtype = torch.promote_types(dtype, part.dtype)
            shape[axis] += part.shape[axis]
        self.dtype = dtype
        self.shape = torch.Size(shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors as one."""
        return self.shape.numel() * self.dtype.itemsize

    def here(self) -> Tensor:
        """Return the tensors as one, where they are."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat([*self.parts], self.axis)

    def write(self, out: Tensor) -> None:
        """Write them to a tensor of their shape and dtype."""
        if len(self.parts) == 1:
            out.copy_(self.parts[0])
            return
        start = 0
        for part in self.parts:
            length = part.shape[self.axis]
            out.narrow(self.axis, start, length).copy_(part)
            start += length


class DeviceBatch(Protocol):
    """A call to be run, which may stand for several."""

    @property
    def num_calls(self) -> int:
        """How many it stands for."""

    @property
    def inputs(self) -> Mapping[str, ConcatInput]:
        """The tensors it needs on the device, by the names of its fields."""

    def call(self, tensors: Mapping[str, Tensor]) -> Call:
        """Return the call, with its inputs where they are now."""

    def here(self) -> Call:
        """Return the call, with its inputs where they have been."""

    def split(self, result: Result) -> Sequence[Result]:
        """Return the answer of each call that it stands for."""


class SingleCall:
    """One call as it is."""

    __slots__ = ("_call",)

    num_calls = 1

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def inputs(self) -> dict[str, ConcatInput]:
        """Its tensors; one that it has under two names is one."""
        joints: dict[int, ConcatInput] = {}
        return {
            name: joints.setdefault(id(tensor), ConcatInput((tensor,)))
            for name, tensor in tensor_fields(self._call).items()
        }

    def call(self, tensors: Mapping[str, Tensor]) -> Call:
        """Return the call with other tensors."""
        return with_fields(self._call, tensors)

    def here(self) -> Call:
        """Return the call."""
        return self._call

    def split(self, result: Result) -> tuple[Result]:
        """Return the answer."""
        return (result,)


class Pack:
    """Calls of one kind as one: its fields but for the inputs are those of `form`."""

    def __init__(self, form: Call, inputs: Mapping[str, ConcatInput], num_calls: int) -> None:
        self.inputs = inputs
        self.num_calls = num_calls
        self._form = form

    def call(self, tensors: Mapping[str, Tensor]) -> Call:
        """Return one call for the tokens of all."""
        return with_fields(self._form, tensors)

    def here(self) -> Call:
        """Return one call for the tokens of all, copied together where they are."""
        return self.call({name: joint.here() for name, joint in self.inputs.items()})
