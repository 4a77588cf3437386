"""Planned calls as a connection makes them, without a connection."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

import rope_core
from rope_core import Attend, Call
from service.buffer_pool import BufferPool
from service.inference.engine import Engine
from service.lifecycle import Lifecycle
from service.oip.state import OipState
from service.planned.plan import Plan, PlannedJob, answer_parts
from service.planned.planner import Planner
from service.server.bootstrap import build_service
from service.settings import Settings
from service.slab_pool import SlabPool
from service.wire import Message, Parameters, safetensors_codec
from service.wire.elements import view_as_bytes

SLABS = SlabPool(2**24, BufferPool(2**24))


class Service(NamedTuple):
    """A service that was not started."""

    engine: Engine
    planner: Planner


@lru_cache(maxsize=1)
def service() -> Service:
    """Return a service on the CPU."""
    threads = torch.get_num_threads()
    handler, device_threads = build_service(Settings(device="cpu"), Lifecycle())
    device_threads.shutdown()
    torch.set_num_threads(threads)
    return Service(handler.engine, Planner(OipState(handler, Lifecycle())))


class Request:
    """A request of a route, and the memory it is received into.

    Args:
        path: the route.
        tensors: of the first request with the plan.
        others: tensors of this request that differ from those of the first.
        params: parameters of both.
    """

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
        **params: object,
    ) -> None:
        message = Message(dict(tensors), Parameters.of(params))
        self.plan = _plan(path, message)
        self.tensors = tensors = {**tensors, **(others or {})}
        slab = SLABS.lease(max(1, self.plan.num_bytes))
        for span in self.plan.spans:
            part = view_as_bytes(tensors[span.name].contiguous())
            slab.memory[span.offset : span.offset + span.num_bytes] = part
        self.job = PlannedJob(self.plan, slab)
        self._message = message

    @property
    def body(self) -> bytes:
        """The tensors' bytes in the slab, as they are now."""
        return bytes(self.job.slab.memory[: self.plan.num_bytes])

    def call(self) -> Call:
        """Return the call, with tensors of its own. Raises RopeError if numbers do not fit."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return self.plan.prepare(Message(tensors, self._message.params)).call

    def answer(self) -> bytes | type[Exception]:
        """Return the tensors of the answer of the library alone, or its exception's type."""
        try:
            call = self.call()
            run = rope_core.attend if isinstance(call, Attend) else rope_core.rotate
            return b"".join(map(bytes, answer_parts(run(call))))
        except Exception as failure:
            return type(failure)


def run(requests: Sequence[Request]) -> list[bytes | type[Exception]]:
    """Run requests as one batch; return the tensors of each answer, or the exception's type."""
    jobs = [request.job for request in requests]
    assert all(job.batch_key == jobs[0].batch_key for job in jobs)
    results = service().engine.run(jobs).results
    return [
        type(result)
        if isinstance(result, Exception)
        else b"".join(map(bytes, answer_parts(result)))
        for result in results
    ]


def _plan(path: str, message: Message) -> Plan:
    body = b"".join(safetensors_codec.encode(message))
    fields = f"content-type: {safetensors_codec.media_type}\r\ncontent-length: {len(body)}"
    data = f"POST {path} HTTP/1.1\r\nhost: service\r\n{fields}\r\n\r\n".encode() + body
    match = service().planner.match(data) or service().planner.match(data)
    assert match is not None
    plan = match.plan or service().planner.make(match, memoryview(data)[match.start : match.end])
    assert plan is not None
    return plan
