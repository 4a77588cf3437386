"""What a request comes to, and how it comes to the same again for others of its head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from service.oip.shm.posix import RegionSlice
from service.wire import Buffer, Message
from service.wire.elements import view_as_tensor


@dataclass(frozen=True, slots=True)
class ShmRef:
    """Where a tensor is in shared memory."""

    region: str
    offset: int
    """From the region's begin, in bytes."""
    span: RegionSlice


@dataclass(frozen=True, slots=True)
class Output:
    """How an output shall come."""

    binary: bool = False
    place: ShmRef | None = None


class InferPlan(NamedTuple):
    """What to do for a request."""

    id: str
    message: Message
    outputs: Mapping[str, Output]
    """By name, in the order of the answer."""
    in_text: bool
    """Whether one of them comes neither as bytes nor in shared memory."""
    queue_s: float | None
    """How long it may wait for the device, None: until its deadline."""
    region_bytes: int
    """Memory that was copied from regions."""


class TensorView(NamedTuple):
    """A tensor that is bytes, and nothing but a view of them."""

    tensor: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Where it begins, if all are one behind the other."""


class CachedHeader(NamedTuple):
    """A head that has been read, of which any bytes of these sizes make a request."""

    plan: InferPlan
    blobs: tuple[TensorView, ...]
    sizes: list[int]
    """Bytes of each."""
    num_bytes: int

    def of_body(self, request_id: str, body: Buffer) -> InferPlan | None:
        """Return the plan of a request whose tensors are a body, None where it is not as long."""
        if len(body) != self.num_bytes:
            return None
        return self._of(
            request_id,
            {
                name: view_as_tensor(body, dtype, shape, start)
                for name, dtype, shape, start in self.blobs
            },
        )

    def of_pieces(self, request_id: str, pieces: Sequence[Buffer]) -> InferPlan | None:
        """Return the same of tensors that are a piece each."""
        if [*map(len, pieces)] != self.sizes:
            return None
        blobs = zip(self.blobs, pieces, strict=True)
        return self._of(
            request_id,
            {
                name: view_as_tensor(piece, dtype, shape, 0)
                for (name, dtype, shape, _), piece in blobs
            },
        )

    def _of(self, request_id: str, tensors: dict[str, Tensor]) -> InferPlan:
        _, message, outputs, in_text, queue_s, _ = self.plan
        return InferPlan(request_id, Message(tensors, message.params), outputs, in_text, queue_s, 0)


MAX_HEAD_BYTES = 2**10
"""Longest head that is kept."""

MAX_KNOWN = 1024


class HeaderCache:
    """Heads that have been read: a service meets the same few again and again.

    The head is all of a request but its id and the bytes of its tensors. It is kept where these are
    all that may differ, which shared memory does, too. Forms do not meet: JSON begins with a brace,
    and no message of protobuf does.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], CachedHeader] = {}

    def find(self, model: str, head: bytes) -> CachedHeader | None:
        """Return what a head of requests to `model` has come to before."""
        return self._known.get((model, head))

    def keep(self, model: str, head: bytes | None, plan: InferPlan, names: Sequence[str]) -> None:
        """Keep what a head has come to, but its tensors: views of bytes, by `names` in order."""
        if head is None or len(head) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = [plan.message.tensors[name] for name in names]
        sizes = [tensor.nbytes for tensor in found]
        starts = accumulate(sizes, initial=0)
        blobs = tuple(
            TensorView(name, tensor.dtype, tuple(tensor.shape), start)
            for name, tensor, start in zip(names, found, starts, strict=False)
        )
        bare = plan._replace(message=Message({}, plan.message.params))
        self._known[model, head] = CachedHeader(bare, blobs, sizes, sum(sizes))
