"""The same call over each protocol, and what comes of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import torch

from tests.service.outside import App, Event, Outside
from tests.service.recorded.grpc_requests import infer
from tests.service.recorded.http_requests import safetensors
from tests.service.recorded.messages import path_of, response_class
from tests.service.recorded.tensors import raw, wire


@dataclass(frozen=True)
class Call:
    """A rotation of `[1, tokens, 4, 64]` float32, or a table of cosines and sines."""

    tokens: int = 1
    theta: float = 10_000.0
    table_dim: int = 0
    """Width of the heads of a table, 0 for a rotation."""
    broken: bool = False
    """Whether the message cannot be read."""
    queue_us: int = 0
    """Longest time in the queue, 0 for no limit. `/v1` has no such parameter."""

    @property
    def tensor(self) -> torch.Tensor:
        if self.table_dim:
            return torch.zeros(self.tokens, dtype=torch.int64)
        return torch.ones(1, self.tokens, 4, 64)

    @property
    def rope(self) -> dict[str, Any]:
        return {"theta": self.theta} | ({"head_dim": self.table_dim} if self.table_dim else {})


@dataclass
class Outcome:
    """What a client gets."""

    status: int | str | None
    """None where nothing came."""
    code: str | None = None
    """The code of a problem document of `/v1`."""
    num_answers: int = 0


class Pending:
    """A call that waits for its answer."""

    async def outcome(self) -> Outcome:
        """Wait for the answer."""
        raise NotImplementedError

    def leave(self) -> None:
        """Go away without an answer."""
        raise NotImplementedError


class Form:
    """A protocol, and how it carries tensors."""

    def __init__(self, name: str, protocol: str) -> None:
        self.name = name
        self.protocol = protocol

    def route(self, call: Call) -> str:
        """Return what metrics call the route."""
        raise NotImplementedError

    def begin(
        self, service: Outside, call: Call, request_id: str, timeout_s: float | None = None
    ) -> Pending:
        """Send a call."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name


@dataclass
class _AsgiPending(Pending):
    task: asyncio.Task[None]
    left: asyncio.Event
    events: list[Event] = field(default_factory=list)

    async def outcome(self) -> Outcome:
        await self.task
        starts = [item for item in self.events if item["type"] == "http.response.start"]
        bodies = [item for item in self.events if item["type"] == "http.response.body"]
        ends = [item for item in bodies if not item.get("more_body")]
        assert len(starts) == len(ends), "each answer that begins is whole"
        assert self.events[:1] == starts[:1]
        if not starts:
            return Outcome(None)
        headers = dict(starts[0]["headers"])
        code = None
        if headers[b"content-type"] == b"application/problem+json":
            code = json.loads(b"".join(item["body"] for item in bodies))["code"]
        return Outcome(starts[0]["status"], code, len(ends))

    def leave(self) -> None:
        self.left.set()


def send_http(
    app: App, method: str, path: str, body: bytes, headers: dict[str, str]
) -> _AsgiPending:
    """Send an HTTP request to an application."""
    left, sent = asyncio.Event(), iter([body])

    async def receive() -> Event:
        for piece in sent:
            return {"type": "http.request", "body": piece, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(event: Event) -> None:
        pending.events.append(event)

    named = {**headers, "content-length": str(len(body))}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    task = asyncio.ensure_future(app(scope, receive, send))
    pending = _AsgiPending(task, left)
    return pending


class Http(Form):
    """HTTP, by its bodies."""

    def begin(
        self, service: Outside, call: Call, request_id: str, timeout_s: float | None = None
    ) -> Pending:
        body, headers = self._write(call)
        headers["x-request-id"] = request_id
        if timeout_s is not None:
            headers["x-request-timeout-ms"] = str(round(timeout_s * 1e3))
        return send_http(service.app, "POST", self.route(call), body, headers)

    def _write(self, call: Call) -> tuple[bytes, dict[str, str]]:
        raise NotImplementedError


class V1(Http):
    """`/v1`, in JSON or in safetensors."""

    def __init__(self, media_type: str) -> None:
        super().__init__(f"v1 {media_type.rpartition('/')[2]}", "v1")
        self._media_type = media_type

    def route(self, call: Call) -> str:
        return "/v1/cos_sin" if call.table_dim else "/v1/rotate"

    def _write(self, call: Call) -> tuple[bytes, dict[str, str]]:
        headers = {"content-type": self._media_type}
        name = "positions" if call.table_dim else "q"
        if call.broken:
            return b"\xff", headers
        if self._media_type == "application/json":
            body = {name: call.tensor.tolist(), "rope": call.rope}
            return json.dumps(body).encode(), headers
        return safetensors({name: call.tensor}, json.dumps({"rope": call.rope})), headers


class V2(Http):
    """`/v2`, with tensors in JSON or in bytes."""

    def __init__(self, binary: bool) -> None:
        super().__init__(f"v2 {'binary' if binary else 'json'}", "v2")
        self._binary = binary

    def route(self, call: Call) -> str:
        return f"/v2/models/{model_of(call)}/infer"

    def _write(self, call: Call) -> tuple[bytes, dict[str, str]]:
        if call.broken:
            return b"\xff", {}
        name = "positions" if call.table_dim else "q"
        header = {
            "inputs": [wire(name, call.tensor, binary=self._binary)],
            "parameters": {**params_of(call), "binary_data_output": self._binary},
        }
        text = json.dumps(header).encode()
        if not self._binary:
            return text, {}
        return text + raw(call.tensor), {"inference-header-content-length": str(len(text))}


@dataclass
class _GrpcPending(Pending):
    call: Any
    streams: bool

    async def outcome(self) -> Outcome:
        responses: list[bytes] = []
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):  # its code is the answer
            async for response in self._responses():
                responses.append(response)
        status = (await self.call.code()).name
        if self.streams and responses:
            (data,) = responses
            message = response_class("ModelStreamInfer").FromString(data)
            status = "error message" if message.error_message else status
        return Outcome(status, None, 0 if status == "CANCELLED" else 1)

    async def _responses(self) -> AsyncIterator[bytes]:
        if self.streams:
            async for response in self.call:
                yield response
        else:
            yield await self.call

    def leave(self) -> None:
        self.call.cancel()


class Grpc(Form):
    """gRPC: one request, or a stream of one request."""

    def __init__(self, streams: bool) -> None:
        name = "grpc stream" if streams else "grpc"
        super().__init__(name, name)
        self._streams = streams

    def route(self, call: Call) -> str:
        return path_of("ModelStreamInfer" if self._streams else "ModelInfer")

    def begin(
        self, service: Outside, call: Call, request_id: str, timeout_s: float | None = None
    ) -> Pending:
        name = "positions" if call.table_dim else "q"
        request = infer(model_of(call), {name: call.tensor}, params_of(call)).SerializeToString()
        request = b"\xff" if call.broken else request
        options = {"timeout": timeout_s, "metadata": (("x-request-id", request_id),)}
        if not self._streams:
            sent = service.channel.unary_unary(self.route(call))(request, **options)
        else:
            sent = service.channel.stream_stream(self.route(call))(_one(request), **options)
        return _GrpcPending(sent, self._streams)


async def _one(request: bytes) -> AsyncIterator[bytes]:
    yield request


def model_of(call: Call) -> str:
    """Return the model of the inference protocol that answers a call."""
    return "rope_cos_sin" if call.table_dim else "rope"


def params_of(call: Call) -> dict[str, Any]:
    """Return the parameters of the inference protocol."""
    return call.rope | ({"timeout": call.queue_us} if call.queue_us else {})


FORMS: tuple[Form, ...] = (
    V1("application/json"),
    V1("application/x-safetensors"),
    V2(binary=False),
    V2(binary=True),
    Grpc(streams=False),
    Grpc(streams=True),
)


async def read(service: Outside, path: str) -> bytes:
    """Return the body that a GET is answered with."""
    pending = send_http(service.app, "GET", path, b"", {})
    await pending.task
    return b"".join(item.get("body", b"") for item in pending.events[1:])


async def read_metrics(service: Outside) -> dict[str, float]:
    """Return the samples of `/metrics`, by name and labels as they are written there."""
    page = (await read(service, "/metrics")).decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
