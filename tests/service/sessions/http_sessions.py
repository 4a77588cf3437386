"""Sessions over HTTP for tests: a service, and its client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import torch
from torch import Tensor

from service.lifecycle import Lifecycle
from service.sessions.running.call import SessionServices
from service.wire import Message, Parameters, safetensors_codec
from tests.service.conftest import asking, running

SAFETENSORS = safetensors_codec.media_type
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
SMALL: dict[str, Any] = {
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rope": {"theta": 500.0},
}
"""A session of one group."""


class Answer:
    """An answer of the service."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.headers = response.headers
        self.tensors: Mapping[str, Tensor] = {}
        self.params: Mapping[str, Any] = {}
        if response.headers.get("content-type") == SAFETENSORS:
            message = safetensors_codec.decode(response.content).message
            self.tensors, self.params = message.tensors, message.params.values
        elif response.content:
            self.params = response.json()

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name] if name in self.tensors else self.params[name]


class HttpSessions:
    """Sends session operations as safetensors."""

    services: SessionServices
    """Of the service in this process."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def create(self, tensors: Mapping[str, Tensor] = {}, **params: Any) -> Answer:
        return await self.post("/v1/sessions", tensors, **params)

    async def new(self, **params: Any) -> str:
        """Create a session, and return its id."""
        answer = await self.create(**SMALL | params)
        assert answer.status == 201, answer.params
        return answer["id"]

    async def call(
        self, session_id: str, operation: str, tensors: Any = None, **params: Any
    ) -> Answer:
        return await self.post(f"/v1/sessions/{session_id}/{operation}", tensors or {}, **params)

    async def ok(
        self, session_id: str, operation: str, tensors: Any = None, **params: Any
    ) -> Answer:
        answer = await self.call(session_id, operation, tensors, **params)
        assert answer.status in (200, 201), answer.params
        return answer

    async def inspect(self, session_id: str) -> Answer:
        return Answer(await self.client.get(f"/v1/sessions/{session_id}"))

    async def state(self, session_id: str) -> dict[str, Any]:
        """Return what a refused operation must not change."""
        document = dict((await self.inspect(session_id)).params)
        for name in ("expires_in_s", "age_s"):
            document.pop(name)
        return document

    async def post(self, path: str, tensors: Mapping[str, Tensor], **params: Any) -> Answer:
        body = b"".join(safetensors_codec.encode(Message(tensors, Parameters.of(params))))
        headers = {"content-type": SAFETENSORS}
        return Answer(await self.client.post(path, content=body, headers=headers))


def qkv(
    num: int, *, batch: int = 1, seed: int = 0, dtype: Any = torch.float32
) -> dict[str, Tensor]:
    """Return q, k and v of `num` tokens a row."""
    random = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, num, HEADS, HEAD_DIM, generator=random)
    k = torch.randn(batch, num, KV_HEADS, HEAD_DIM, generator=random)
    v = torch.randn(batch, num, KV_HEADS, HEAD_DIM, generator=random)
    return {"q": q.to(dtype), "k": k.to(dtype), "v": v.to(dtype)}


def kv(num: int, **options: Any) -> dict[str, Tensor]:
    """Return k and v of `num` tokens a row."""
    return {name: x for name, x in qkv(num, **options).items() if name != "q"}


def part(tensors: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Return tokens [start, stop) of each row."""
    return {name: x[:, start:stop].contiguous() for name, x in tensors.items()}


@asynccontextmanager
async def http_sessions(**settings: Any) -> AsyncIterator[HttpSessions]:
    """Run a service with sessions."""
    settings = {"kv_bytes": 2**24, "kv_page_tokens": 4, **settings}
    async with running(Lifecycle(), **settings) as app, asking(app) as client:
        http = HttpSessions(client)
        http.services = app.sessions._handler.services
        yield http
