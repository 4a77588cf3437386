"""What a request comes to, and how it comes to the same again for others of its head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from service.oip.objects import Span
from service.wire import Buffer, Message
from service.wire.message import view


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is in shared memory."""

    region: str
    offset: int
    """From the region's begin, in bytes."""
    span: Span


@dataclass(frozen=True, slots=True)
class Output:
    """How an output shall come."""

    binary: bool = False
    place: Place | None = None


class Plan(NamedTuple):
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


class Blob(NamedTuple):
    """A tensor that is bytes, and nothing but a view of them."""

    tensor: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_bytes: int


class Known(NamedTuple):
    """A head that has been read, of which any bytes of these sizes make a request."""

    plan: Plan
    blobs: tuple[Blob, ...]
    num_bytes: int
    """Of all tensors."""

    def cut(self, body: memoryview) -> list[Buffer] | None:
        """Return the bytes of each tensor, None where those of all are not as many."""
        if len(body) != self.num_bytes:
            return None
        at = 0
        pieces: list[Buffer] = []
        for blob in self.blobs:
            pieces.append(body[at : at + blob.num_bytes])
            at += blob.num_bytes
        return pieces

    def read(self, request_id: str, pieces: Sequence[Buffer]) -> Plan | None:
        """Return the plan of a request, None where a tensor has more or fewer bytes."""
        if len(pieces) != len(self.blobs):
            return None
        tensors = {}
        for (name, dtype, shape, num_bytes), piece in zip(self.blobs, pieces, strict=True):
            if len(piece) != num_bytes:
                return None
            tensors[name] = view(piece, dtype, shape, 0)
        _, message, outputs, in_text, queue_s, _ = self.plan
        return Plan(request_id, Message(tensors, message.params), outputs, in_text, queue_s, 0)


MAX_HEAD_BYTES = 2**10
"""Longest head that is kept."""

MAX_KNOWN = 1024


class Heads:
    """Heads that have been read: a service meets the same few again and again.

    The head is all of a request but its id and the bytes of its tensors. It is kept where these are
    all that may differ, which shared memory does, too. Forms do not meet: JSON begins with a brace,
    and no message of protobuf does.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Known] = {}

    def find(self, model: str, head: bytes) -> Known | None:
        """Return what a head of requests to `model` has come to before."""
        return self._known.get((model, head))

    def keep(self, model: str, head: bytes | None, plan: Plan, blobs: Sequence[Blob]) -> None:
        """Keep what a head has come to, without the tensors."""
        if head is None or len(head) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        bare = plan._replace(message=Message({}, plan.message.params))
        num_bytes = sum(blob.num_bytes for blob in blobs)
        self._known[model, head] = Known(bare, tuple(blobs), num_bytes)
