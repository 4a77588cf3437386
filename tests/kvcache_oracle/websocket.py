"""A driver over the WebSocket of sessions: safetensors frames; sessions are made over HTTP."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.kvcache_oracle.calls import Answer, Call, Refused
from tests.kvcache_oracle.http import WITHOUT_TENSORS, HttpDriver, problem_members
from tests.kvcache_oracle.messages import read_safetensors, write_safetensors

GUARDED = ("append", "step", "truncate")
"""Operations that need `expected_length` in a stream; without it they are sent over HTTP."""


class WebSocketDriver(HttpDriver):
    """One stream for all sessions; half of the programs' sessions get one of their own."""

    def __init__(self, client: httpx.Client, url: str, headers: dict[str, str]) -> None:
        super().__init__(client)
        self.url = url.replace("http", "ws", 1)
        self.headers = headers
        self.streams: dict[str, ClientConnection] = {}
        self.seq = 0
        self.opened = ExitStack()

    def stream(self, path: str) -> ClientConnection:
        if path not in self.streams:
            opening = connect(
                self.url + path,
                subprotocols=["rope.session.v1"],  # type: ignore[list-item]
                additional_headers=self.headers,
                compression=None,
                max_size=None,
            )
            self.streams[path] = self.opened.enter_context(opening)
            assert self.streams[path].subprotocol == "rope.session.v1"
        return self.streams[path]

    def _path(self, call: Call) -> str:
        if call.session % 2 or call.session not in self.live:
            return "/v1/stream"
        return f"/v1/sessions/{self.ids[call.session]}/stream"

    def _frame(self, call: Call) -> bytes:
        self.seq += 1
        params: dict[str, Any] = {"op": call.operation, "seq": self.seq} | self.params(call)
        if self._path(call) == "/v1/stream" or self.seq % 3 == 0:
            params["session"] = self.ids[call.session]
        return write_safetensors(params, call.tensors)

    @staticmethod
    def _is_over_http(call: Call) -> bool:
        if call.operation in WITHOUT_TENSORS:
            return True
        return call.operation in GUARDED and "expected_length" not in call.params

    def send(self, call: Call) -> Answer:
        if self._is_over_http(call):
            return super().send(call)
        stream = self.stream(self._path(call))
        stream.send(self._frame(call))
        return self._read(stream, self.seq, call.operation)

    @staticmethod
    def _read(stream: ClientConnection, seq: int, operation: str) -> Answer:
        content = stream.recv(timeout=30)
        if isinstance(content, str):
            problem = json.loads(content)
            assert problem.pop("seq") == seq, problem
            raise Refused(problem["status"], problem.pop("code"), **problem_members(problem))
        params, tensors = read_safetensors(content)
        assert params["seq"] == seq, params
        assert params["op"] == operation, params
        return Answer(params, tensors)

    def drop(self, call: Call) -> None:
        """Send a message and close the stream; half of the time its answer has been read."""
        if self._is_over_http(call):
            super().drop(call)
            return
        path = self._path(call)
        stream = self.stream(path)
        stream.send(self._frame(call))
        if self.seq % 2:
            try:
                self._read(stream, self.seq, call.operation)
            except Refused:
                return
        else:
            stream.close()
            del self.streams[path]

    def close(self) -> None:
        self.opened.close()


@contextmanager
def websocket_driver(url: str, **headers: str) -> Iterator[WebSocketDriver]:
    """Make a driver of a service; at the end all sessions are deleted."""
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        driver = WebSocketDriver(client, url, headers)
        try:
            yield driver
        finally:
            driver.close()
            driver.delete_all()
