"""A plain client of sessions over HTTP, and what a test sees of a session."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from torch import Tensor

from tests.kvcache_oracle.http import SAFETENSORS
from tests.kvcache_oracle.messages import read_json, read_safetensors, write_safetensors

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
CONFIG: dict[str, Any] = {
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "layers": 2,
    "rope": {"theta": 10000},
    "dtype": "float32",
}
PASSING = ("expires_in_s", "age_s")
"""Members of a document that change by themselves."""


def tokens(n: int, batch: int = 2, seed: int = 0, names: str = "qkv") -> dict[str, Tensor]:
    """Return q, k, v `[batch, n, heads, width]`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            batch, n, HEADS if name == "q" else KV_HEADS, HEAD_DIM, generator=generator
        )
        for name in names
    }


def write_keys(folder: Path, names: str) -> Path:
    """Write a keys file with a tenant for each letter; its key is the letter twenty times."""
    lines = []
    for name in names:
        digest = hashlib.sha256((name * 20).encode()).hexdigest()
        scopes = '["infer", "sessions", "metrics"]'
        lines.append(f'[{name}]\nkeys = ["{digest}"]\nscopes = {scopes}\n')
    path = folder / "keys.toml"
    path.write_text("\n".join(lines))
    return path


def client_of(url: str, tenant: str | None = None) -> httpx.Client:
    headers = {"authorization": f"Bearer {tenant * 20}"} if tenant else {}
    return httpx.Client(base_url=url, headers=headers, timeout=60)


class Reply(NamedTuple):
    status: int
    params: dict[str, Any]
    tensors: dict[str, Tensor]
    headers: httpx.Headers

    @property
    def code(self) -> str:
        return self.params.get("code", "")


class Remote:
    """Sessions of one tenant."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
        **headers: str,
    ) -> Reply:
        """Send a message: safetensors where there are tensors, otherwise JSON."""
        content = None
        headers = {name.replace("_", "-"): each for name, each in headers.items()}
        if tensors:
            content = write_safetensors(body or {}, tensors)
            headers.setdefault("content-type", SAFETENSORS)
        elif method not in ("GET", "DELETE", "HEAD"):
            content = json.dumps(body or {}).encode()
            headers.setdefault("content-type", "application/json")
        response = self.client.request(method, path, content=content, headers=headers)
        params: dict[str, Any] = {}
        made: dict[str, Tensor] = {}
        if response.headers.get("content-type") == SAFETENSORS:
            params, made = read_safetensors(response.content)
        elif response.content:
            params, made = read_json(response.content)
        return Reply(response.status_code, params, made, response.headers)

    def create(self, **members: Any) -> str:
        reply = self.ask("POST", "/v1/sessions", CONFIG | members)
        assert reply.status == 201, reply
        return reply.params["id"]

    def filled(self, n: int = 5, **members: Any) -> str:
        """Return a session with n tokens in all layers."""
        session = self.create(**{"batch": 2, "max_tokens": 24} | members)
        batch = {"batch": 2, **members}["batch"]
        for layer in range(members.get("layers", 2)):
            given = tokens(n, batch, seed=layer, names="kv")
            reply = self.call(session, "append", {"layer": layer}, given)
            assert reply.status == 200, reply
        return session

    def call(
        self,
        session: str,
        operation: str,
        params: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
        **headers: str,
    ) -> Reply:
        return self.ask("POST", f"/v1/sessions/{session}/{operation}", params, tensors, **headers)

    def document(self, session: str) -> dict[str, Any]:
        reply = self.ask("GET", f"/v1/sessions/{session}")
        assert reply.status == 200, reply
        return {name: each for name, each in reply.params.items() if name not in PASSING}

    def delete(self, session: str) -> int:
        return self.ask("DELETE", f"/v1/sessions/{session}").status

    def look(self, session: str) -> list[Tensor]:
        """Return what each layer answers to a query of the last token."""
        document = self.document(session)
        answers = []
        for layer in range(len(document["lengths"])):
            given = tokens(1, document["batch"], seed=77, names="q")
            reply = self.call(session, "attend", {"layer": layer, "return_lse": True}, given)
            assert reply.status == 200, reply
            answers += [reply.tensors["out"], reply.tensors["lse"]]
        return answers


class Unchanged:
    """`with Unchanged(remote, session):` a session is afterwards what it was, and can go on.

    A fork from before it makes the same next step.
    """

    def __init__(self, remote: Remote, session: str) -> None:
        self.remote, self.session = remote, session

    def __enter__(self) -> None:
        self.twin = self.remote.call(self.session, "fork").params["ids"][0]
        self.document = self.remote.document(self.session)
        self.answers = self.remote.look(self.session)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        document = self.remote.document(self.session)
        assert document == self.document
        for before, now in zip(self.answers, self.remote.look(self.session), strict=True):
            assert torch.equal(before, now)
        steps = []
        level = all(each == document["length"] for each in document["lengths"])
        sessions = (self.twin, self.session)
        for session in sessions if level and not document["frozen"] else ():
            guard = {"layer": 0, "expected_length": document["length"]}
            reply = self.remote.call(session, "step", guard, tokens(1, document["batch"], seed=9))
            assert reply.status == 200, reply
            steps.append(reply)
        if steps:
            assert torch.equal(steps[0].tensors["out"], steps[1].tensors["out"])
        assert self.remote.delete(self.twin) == 204
