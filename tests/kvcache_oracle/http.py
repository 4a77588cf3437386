"""A driver over HTTP: one kept connection, JSON and safetensors by turns."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import torch

from tests.kvcache_oracle.calls import Answer, Call, Refused
from tests.kvcache_oracle.messages import (
    read_json,
    read_safetensors,
    write_json,
    write_safetensors,
)
from tests.kvcache_oracle.sessions import ListService

SAFETENSORS = "application/x-safetensors"
WITHOUT_TENSORS = ("create", "fork", "inspect", "patch", "delete")
OWN = ("authorization",)


class WireDriver:
    """Ids of sessions, and what HTTP and the stream have in common."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.ids: dict[int, str] = {}
        self.live: set[int] = set()
        self.num_calls = 0

    def call(self, call: Call) -> Answer:
        """Send a call once, or as its delivery says; an answer that comes again has equal bits."""
        self.num_calls += 1
        if call.delivery == "dropped":
            self.drop(call)
            return self.send(call)
        first = self._caught(call)
        if call.delivery == "twice":
            again = self._caught(call)
            if isinstance(first, Refused):
                assert isinstance(again, Refused), f"refused at first, done at last: {first}"
                assert again.status == first.status, (first, again)
            else:
                assert isinstance(again, Answer), f"done, and refused when sent again: {again}"
                for name, tensor in first.tensors.items():
                    assert torch.equal(tensor, again.tensors[name]), f"{name} has other bits"
                for name in ("length", "lengths", "generation"):
                    assert first.members.get(name) == again.members.get(name), (first, again)
        if isinstance(first, Refused):
            raise first
        return first

    def _caught(self, call: Call) -> Answer | Refused:
        try:
            return self.send(call)
        except Refused as refused:
            return refused

    def send(self, call: Call) -> Answer:
        """Send one message and read its answer. Raises Refused."""
        raise NotImplementedError

    def drop(self, call: Call) -> None:
        """Send one message whose answer is not read."""
        try:
            self.send(call)
        except Refused:
            return

    def params(self, call: Call) -> dict[str, Any]:
        """Return the parameters with ids in the place of numbers."""
        params = dict(call.params)
        if "source" in params:
            params["source"] = self.ids[params["source"]]
        if "configuration" in params:
            params |= params.pop("configuration").members()
        return params

    def read(self, call: Call, response: httpx.Response) -> Answer:
        if response.status_code >= 400:
            raise refused(response)
        if not response.content:
            self.live.discard(call.session)
            return Answer({})
        if response.headers["content-type"] == SAFETENSORS:
            return Answer(*read_safetensors(response.content))
        params, tensors = read_json(response.content)
        if call.operation == "create":
            self.add(call.new, params["id"])
        if call.operation == "fork":
            for i, each in enumerate(params["ids"]):
                self.add(call.new + i, each)
        return Answer(params, tensors)

    def add(self, number: int, session_id: str) -> None:
        self.ids[number] = session_id
        self.live.add(number)

    def send_without_tensors(self, call: Call) -> Answer:
        """Create, inspect, patch, fork and delete over HTTP."""
        path = f"/v1/sessions/{self.ids[call.session]}" if call.session >= 0 else "/v1/sessions"
        method, body = "POST", self.params(call)
        if call.operation == "fork":
            path += "/fork"
        elif call.operation in ("inspect", "patch", "delete"):
            method = {"inspect": "GET"}.get(call.operation, call.operation.upper())
        content = None if method in ("GET", "DELETE") else json.dumps(body)
        headers = {"content-type": "application/json"} if content else {}
        return self.read(call, self.client.request(method, path, content=content, headers=headers))

    def check_state(self, service: ListService) -> None:
        assert self.live == {*service.sessions}, (self.live, {*service.sessions})
        for number in service.sessions:
            got = self.client.get(f"/v1/sessions/{self.ids[number]}").json()
            expected = service.document(number)
            for name, value in expected.items():
                assert got[name] == value, (number, name, got[name], value)
            generation = service.sessions[number].cache.generation
            assert got.get("generation", generation) == generation, (got, generation)

    def delete_all(self) -> None:
        for number in [*self.live]:
            response = self.client.delete(f"/v1/sessions/{self.ids[number]}")
            assert response.status_code == 204, response.text


def refused(response: httpx.Response) -> Refused:
    problem = response.json()
    assert problem["status"] == response.status_code, problem
    return Refused(response.status_code, problem.pop("code"), **problem_members(problem))


def problem_members(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in problem.items() if name not in ("status", "also")}


class HttpDriver(WireDriver):
    def send(self, call: Call) -> Answer:
        if call.operation in WITHOUT_TENSORS:
            return self.send_without_tensors(call)
        path, headers, content = self._request(call)
        return self.read(call, self.client.post(path, content=content, headers=headers))

    def drop(self, call: Call) -> None:
        """Send a call whose answer is lost. A fenced one may arrive late: nobody waits for it."""
        is_fenced = "expected_generation" in call.params or "op_id" in call.params
        if not is_fenced or self.num_calls % 2 or call.operation in WITHOUT_TENSORS:
            super().drop(call)
            return
        path, headers, content = self._request(call)
        url = self.client.base_url
        headers |= {"host": f"{url.host}:{url.port}", "content-length": str(len(content))}
        headers |= {name: self.client.headers[name] for name in OWN if name in self.client.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)

    def _request(self, call: Call) -> tuple[str, dict[str, str], bytes]:
        path = f"/v1/sessions/{self.ids[call.session]}/{call.operation}"
        form = self.num_calls % 3
        params = self.params(call)
        if form == 0:
            kind, content = SAFETENSORS, write_safetensors(params, call.tensors)
        else:
            kind = "application/json"
            content = write_json(params, call.tensors, as_base64=form == 1)
        headers = {"content-type": kind, "x-session-id": self.ids[call.session]}
        return path, headers, content


@contextmanager
def http_driver(url: str, **headers: str) -> Iterator[HttpDriver]:
    """Make a driver of a service; at the end all sessions are deleted."""
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        driver = HttpDriver(client)
        try:
            yield driver
        finally:
            driver.delete_all()
