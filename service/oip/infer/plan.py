"""Parsed inference requests, and a cache of request headers that were parsed before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from service.oip.infer.sequence_params import SequenceParams
from service.oip.shm.posix import RegionSlice
from service.wire import Buffer, Message, Parameters
from service.wire.elements import view_as_tensor


@dataclass(frozen=True, slots=True)
class Output:
    """How the client wants an output."""

    binary: bool = False
    shm: RegionSlice | None = None
    """Its place in shared memory."""


@dataclass(frozen=True, slots=True)
class InferPlan:
    """How to run and answer every request with the same header."""

    outputs: Mapping[str, Output]
    """By name, in the order of the answer."""

    queue_s: float | None
    """Longest wait for the device; None: until the deadline."""

    memory_factor: int
    """Bytes of memory for each byte of the answer, when it is written."""

    is_binary: bool
    """Whether all outputs are sent as bytes: then the answer is written without a copy."""

    region_bytes: int = 0
    """Bytes of the inputs that were copied from shared memory."""

    def is_whole(self, result: Message) -> bool:
        """Tell whether the outputs are all tensors of a result, in the order of the result."""
        return [name for name in self.outputs if name in result.tensors] == [*result.tensors]


class InferRequest(NamedTuple):
    """A parsed request."""

    id: str
    """The client's name of the request; empty where it has none."""
    plan: InferPlan
    message: Message
    sequence: SequenceParams | None = None
    """Of a request to a model of sequences; its message is that of a step."""


class CachedHeader(NamedTuple):
    """A parsed header. With any bytes of these sizes it makes a parsed request."""

    plan: InferPlan
    params: Parameters
    views: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    """Dtype and shape of each tensor by name; each is a view of bytes of the request."""
    sizes: list[int]
    """Bytes of each tensor."""

    def read_body(self, request_id: str, body: memoryview) -> InferRequest | None:
        """Return the request whose tensors follow one another in `body`.

        None where the body has another length.
        """
        pieces, start = [], 0
        for size in self.sizes:
            pieces.append(body[start : start + size])
            start += size
        return self.read_pieces(request_id, pieces) if start == len(body) else None

    def read_pieces(self, request_id: str, pieces: Sequence[Buffer]) -> InferRequest | None:
        """Return the request whose tensors are `pieces`, None where their sizes differ."""
        if [*map(len, pieces)] != self.sizes:
            return None
        tensors = {
            name: view_as_tensor(piece, dtype, shape, 0)
            for (name, (dtype, shape)), piece in zip(self.views.items(), pieces, strict=True)
        }
        return InferRequest(request_id, self.plan, Message(tensors, self.params))


MAX_HEADER_BYTES = 2**10
"""Longest header that is cached."""

MAX_CACHED_HEADERS = 1024


class HeaderCache:
    """Headers that were parsed before: clients send the same few again and again.

    A header is all of a request but its id and the bytes of its tensors. It is cached where nothing
    else can differ; the content of shared memory can. Headers of JSON and of protobuf are never
    equal: JSON begins with a brace, and no message of protobuf does.
    """

    def __init__(self) -> None:
        self._headers: dict[tuple[str, bytes], CachedHeader] = {}

    def __len__(self) -> int:
        """Return how many headers are cached."""
        return len(self._headers)

    def get(self, model: str, header: bytes) -> CachedHeader | None:
        """Return the parsed header of a request to `model`, None where it is not cached."""
        return self._headers.get((model, header))

    def add(self, model: str, header: bytes, request: InferRequest, views: Sequence[str]) -> None:
        """Cache the header of a request whose tensors, `views` in order, are views of its bytes."""
        if len(header) > MAX_HEADER_BYTES:
            return
        if len(self._headers) >= MAX_CACHED_HEADERS:
            self._headers.clear()
        tensors = {name: request.message.tensors[name] for name in views}
        self._headers[model, header] = CachedHeader(
            request.plan,
            request.message.params,
            {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()},
            [tensor.nbytes for tensor in tensors.values()],
        )
