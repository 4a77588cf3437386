"""Send recorded requests over sockets, as bytes."""

import base64
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from tests.conftest import Started
from tests.service.recorded.messages import path_of

SETTINGS = {
    "ROPE_MAX_BODY_BYTES": str(2**20),
    "ROPE_MAX_JSON_BYTES": str(2**18),
    "ROPE_MEMORY_BUDGET_BYTES": str(2**32),  # by default it depends on the machine
    "ROPE_SHARED_MEMORY_PREFIX": "rope-test-",
    "ROPE_LOG_LEVEL": "warning",
}
"""Environment of the service that was recorded."""

REGION_NAME = "rope-test-RECORDED"
"""Name of the shared memory object in recorded bytes. A name of the same length replaces it."""

REGION = b"".join(bytes([0, 0, n, 0x40 + n]) for n in range(32))
"""What the shared memory object holds before a case: 32 float32 numbers, 2.0 and larger."""

Answer = dict[str, Any]


def encode(data: bytes) -> str | dict[str, str]:
    """Return bytes as JSON can hold them: as text, or as base64 where they are not ASCII."""
    if data.isascii():
        return data.decode()
    return {"base64": base64.b64encode(data).decode()}


def decode(data: str | dict[str, str]) -> bytes:
    """Return the bytes that `encode` was given."""
    return data.encode() if isinstance(data, str) else base64.b64decode(data["base64"])


class Sender:
    """Sends the exchanges of one case to a running service."""

    def __init__(self, service: Started, region: str) -> None:
        self._service = service
        self._region = region

    def send(self, exchange: dict[str, Any]) -> Answer:
        """Return the answer to one exchange, whatever its protocol."""
        if "method" not in exchange:
            return self._send_http(exchange)
        return self._send_grpc(exchange)

    def _send_http(self, exchange: dict[str, Any]) -> Answer:
        request = self._mask_out(decode(exchange["request"]))
        host, port = self._service.url.removeprefix("http://").split(":")
        received = b""
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(request)
            if exchange.get("half_close"):
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(2**20):
                received += piece
        is_head = request.startswith(b"HEAD ")
        return {"responses": [*_responses(self._mask_in(received), is_head)]}

    def _send_grpc(self, exchange: dict[str, Any]) -> Answer:
        requests = [self._mask_out(decode(item)) for item in exchange["requests"]]
        metadata = [tuple(item) for item in exchange.get("metadata", [])]
        path = path_of(exchange["method"])
        with grpc.insecure_channel(self._service.grpc_target) as channel:
            if exchange.get("stream"):
                call = channel.stream_stream(path)(iter(requests), timeout=60, metadata=metadata)
            else:
                call = channel.unary_unary(path).future(requests[0], timeout=60, metadata=metadata)
            responses: list[bytes] = []
            with suppress(grpc.RpcError):  # its code is the answer
                if exchange.get("stream"):
                    for response in call:
                        responses.append(response)  # those before an error
                else:
                    responses.append(call.result())
            return {
                "code": call.code().name,
                "details": call.details() or "",
                "trailing": [[n, v] for n, v in call.trailing_metadata() or ()],
                "messages": [encode(self._mask_in(item)) for item in responses],
            }

    def _mask_out(self, data: bytes) -> bytes:
        return data.replace(REGION_NAME.encode(), self._region.encode())

    def _mask_in(self, data: bytes) -> bytes:
        return data.replace(self._region.encode(), REGION_NAME.encode())


@contextmanager
def sending(service: Started) -> Iterator[tuple[Sender, Path]]:
    """Make the shared memory object of a case, and a sender of its exchanges."""
    region = "rope-test-" + secrets.token_hex(4)
    assert len(region) == len(REGION_NAME)
    path = Path("/dev/shm") / region
    path.write_bytes(REGION)
    try:
        yield Sender(service, region), path
    finally:
        path.unlink()


def _responses(received: bytes, is_head: bool) -> Iterator[Answer]:
    """Cut what a connection brought into responses."""
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin1").split("\r\n")
        headers = [line.split(": ", 1) for line in lines]
        by_name = dict(headers)
        if is_head or status.startswith("HTTP/1.1 100"):
            body, received = b"", rest
        elif "content-length" in by_name:
            length = int(by_name["content-length"])
            assert len(rest) >= length, "the connection ended within a body"
            body, received = rest[:length], rest[length:]
        elif by_name.get("transfer-encoding") == "chunked":
            body, received = _unchunk(rest)
        else:
            body, received = rest, b""
        yield {"status": status, "headers": headers, "body": encode(body)}


def _unchunk(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while size := int(re.match(rb"[0-9a-f]+", rest)[0], 16):
        start = rest.index(b"\r\n") + 2
        body += rest[start : start + size]
        rest = rest[start + size + 2 :]
    return body, rest[rest.index(b"\r\n") + 4 :]
