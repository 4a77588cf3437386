"""The calls that a device computes: one request's call, or one that stands for several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rope_core import Call, Result
from rope_core.calls import tensor_fields, with_fields


class ConcatInput:
    """An input of a call: tensors to concatenate along `axis`. They differ in that axis alone.

    If dtypes differ, the result has the dtype that torch promotes them to.
    """

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
    def nbytes(self) -> int:
        """Bytes of the concatenated tensor."""
        return self.shape.numel() * self.dtype.itemsize

    def on_host(self) -> Tensor:
        """Return the concatenated tensor; the tensor itself if there is one."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat([*self.parts], self.axis)

    def copy_to(self, out: Tensor) -> None:
        """Concatenate into `out`, a tensor of this shape and dtype."""
        if len(self.parts) == 1:
            out.copy_(self.parts[0])
        else:
            torch.cat([*self.parts], self.axis, out=out)


@dataclass(frozen=True, slots=True)
class SingleCall:
    """A request's call, as it is."""

    on_host: Call
    num_calls: ClassVar[int] = 1

    @property
    def inputs(self) -> dict[str, ConcatInput]:
        """The call's tensors by field name. A tensor in two fields is one input."""
        by_id: dict[int, ConcatInput] = {}
        return {
            name: by_id.setdefault(id(tensor), ConcatInput((tensor,)))
            for name, tensor in tensor_fields(self.on_host).items()
        }

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Call:
        """Return the call with its inputs replaced, by field name."""
        return with_fields(self.on_host, tensors)

    def split(self, result: Result) -> Sequence[Result]:
        """Return the result in a tuple."""
        return (result,)


@dataclass(frozen=True, slots=True)
class PackedCalls:
    """Several calls as one."""

    template: Call
    """Has the fields that are not tensors."""

    inputs: Mapping[str, ConcatInput]
    """The tensors by field name."""

    num_calls: int
    """Number of calls in the pack."""

    split: Callable[[Result], Sequence[Result]]
    """Returns the result of each call, as views of the pack's result."""

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Call:
        """Return one call for the tokens of all, with these inputs by field name."""
        return with_fields(self.template, tensors)

    @property
    def on_host(self) -> Call:
        """One call for the tokens of all, with inputs concatenated on the host."""
        return self.with_tensors({name: part.on_host() for name, part in self.inputs.items()})


DeviceBatch = SingleCall | PackedCalls
"""One call to compute on a device."""
