"""Resident memory of a real service: large requests at once, many of all kinds, answers unread."""

import json
import random
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import grpc
import httpx
import pytest

from service.oip.grpc.messages import METHODS, ModelInferRequest
from tests.conftest import Serve, Started
from tests.waiting import wait_until

MIB = 2**20
SAFETENSORS = "application/x-safetensors"
ROPE = {"head_dim": 64, "theta": 10_000.0}

INFER = METHODS["ModelInfer"].path

NUM_REQUESTS = 10_000
NUM_FIRST = 500
NUM_CONNECTIONS = 8


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Started]:
    """A service with the settings that it has by default."""
    variables = {"ROPE_PREFAULT_BYTES": str(320 * MIB), "ROPE_LOG_LEVEL": "warning"}
    with serve(forked=False, **variables) as started:
        yield started


def resident_bytes(service: Started, name: str = "VmRSS") -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) * 1024


def admitted_bytes(service: Started) -> float:
    metrics = httpx.get(f"{service.url}/metrics").text
    return float(re.search(r"^rope_admitted_bytes (\S+)", metrics, re.MULTILINE)[1])


def request(path: str, body: bytes = b"", media_type: str = "", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"content-type: {media_type}"] * bool(media_type)
    return "\r\n".join([*lines, "", ""]).encode() + body


def safetensors(path: str, params: dict[str, object], **shapes: Sequence[int]) -> bytes:
    """Return a request whose tensors are float32 zeros."""
    header: dict[str, object] = {"__metadata__": {"params": json.dumps(params)}}
    offset = 0
    for name, shape in shapes.items():
        num_bytes = 4
        for length in shape:
            num_bytes *= length
        span = [offset, offset + num_bytes]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": span}
        offset += num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return request(path, struct.pack("<Q", len(text)) + text + bytes(offset), SAFETENSORS)


def rotation(num_tokens: int, num_heads: int = 8) -> bytes:
    return safetensors("/v1/rotate", {"rope": ROPE}, q=[1, num_tokens, num_heads, 64])


def attention(num_tokens: int) -> bytes:
    shapes = {name: [1, num_tokens, 4, 64] for name in "qkv"}
    return safetensors("/v1/attention", {"rope": ROPE, "causal": True}, **shapes)


def in_json(path: str, body: object) -> bytes:
    return request(path, json.dumps(body).encode(), "application/json")


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "small rotation": lambda numbers: rotation(numbers.randint(1, 32)),
    "rotation": lambda numbers: rotation(numbers.randint(32, 512)),
    "rotation above 1 MiB": lambda numbers: rotation(numbers.randint(512, 1024)),
    "attention": lambda numbers: attention(numbers.randint(8, 96)),
    "JSON": lambda numbers: in_json(
        "/v1/rotate", {"q": [[[[1.0] * 16] * 2] * numbers.randint(1, 20)]}
    ),
    "tables": lambda numbers: in_json(
        "/v1/cos_sin", {"positions": [*range(numbers.randint(1, 50))], "rope": ROPE}
    ),
    "refused": lambda numbers: in_json("/v1/rotate", {"q": numbers.randint(1, 10**6)}),
    "metrics": lambda _: request("/metrics", method="GET"),
    "status": lambda _: request("/v2", method="GET"),
}
WEIGHTS = {"small rotation": 30, "rotation": 8, "rotation above 1 MiB": 1, "attention": 10}


class Connection:
    """A connection to the service."""

    def __init__(self, service: Started) -> None:
        host, port = service.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self._received = bytearray(MIB)

    def exchange(self, sent: bytes) -> int:
        """Send a request; return the status of its answer, which is read to its end."""
        self.socket.sendall(sent)
        header = b""
        while b"\r\n\r\n" not in header:
            header += self._receive()
        header, _, body = header.partition(b"\r\n\r\n")
        left = int(re.search(rb"(?i)content-length: (\d+)", header)[1]) - len(body)
        while left > 0:
            left -= len(self._receive())
        assert left == 0
        return int(header.split()[1])

    def _receive(self) -> memoryview:
        num_bytes = self.socket.recv_into(self._received)
        assert num_bytes, "the service closed the connection"
        return memoryview(self._received)[:num_bytes]


@pytest.fixture
def connect(service: Started) -> Iterator[Callable[[int], list[Connection]]]:
    """Return a function that opens a number of connections; they are closed after the test."""
    opened: list[Connection] = []

    def open_connections(number: int) -> list[Connection]:
        connections = [Connection(service) for _ in range(number)]
        opened.extend(connections)
        return connections

    yield open_connections
    for connection in opened:
        connection.socket.close()


def test_eight_large_requests_at_once_fit(service, connect):
    large = rotation(32 * MIB // 4 // 64 // 32, num_heads=32)

    def send_twice(connection: Connection) -> list[int]:
        return [connection.exchange(large) for _ in range(2)]

    ready = resident_bytes(service)
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(send_twice, connect(8))] == [[200, 200]] * 8
    assert resident_bytes(service) - ready < 64 * MIB, "the memory was touched before the first"
    assert resident_bytes(service, "VmHWM") < 700 * MIB


def test_many_requests_of_all_kinds_leave_no_memory_behind(service, connect):
    """Requests that come later find the memory of the first ones."""
    numbers = random.Random(0)
    names = numbers.choices([*KINDS], [WEIGHTS.get(name, 2) for name in KINDS], k=NUM_REQUESTS)
    made = {name: [make(numbers) for _ in range(40)] for name, make in KINDS.items()}
    requests = [numbers.choice(made[name]) for name in names]

    def send(connection: Connection, part: Sequence[bytes]) -> set[int]:
        return {connection.exchange(each) for each in part}

    def send_all(connections: Sequence[Connection], requests: Sequence[bytes]) -> set[int]:
        parts = [requests[start::NUM_CONNECTIONS] for start in range(NUM_CONNECTIONS)]
        return set().union(*threads.map(send, connections, parts))

    with ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
        connections = connect(NUM_CONNECTIONS)
        assert send_all(connections, requests[:NUM_FIRST]) == {200, 422}
        first = resident_bytes(service)
        send_all(connections, requests[NUM_FIRST:])
    assert abs(resident_bytes(service) - first) < 64 * MIB
    wait_until(lambda: admitted_bytes(service) == 0)


def test_answers_that_nobody_reads_hold_memory_only_while_their_connection_is_open(
    service, connect
):
    sent, resident = rotation(16 * MIB // 4 // 64 // 32, num_heads=32), []
    for _ in range(3):
        connections = connect(4)
        for connection in connections:
            connection.socket.sendall(sent)
        wait_until(lambda: admitted_bytes(service) > 0)
        for connection in connections:
            connection.socket.close()
        wait_until(lambda: admitted_bytes(service) == 0)
        resident.append(resident_bytes(service))
    for before, after in pairwise(resident):
        assert after - before < 16 * MIB


def infer_message(num_bytes: int) -> bytes:
    """Return a rotation over gRPC of about this length."""
    num_tokens = num_bytes // 256
    x = {"name": "q", "datatype": "FP32", "shape": [1, num_tokens, 1, 64]}
    raw = [bytes(num_tokens * 256)]
    message: bytes = ModelInferRequest(
        model_name="rope", inputs=[x], raw_input_contents=raw
    ).SerializeToString()
    return message


def test_many_large_requests_at_once_stay_within_the_budget(serve: Serve):
    """Over both ways of HTTP and over gRPC: the others are refused with 503, or its like."""
    budget = 64 * MIB
    plain = rotation(16 * MIB // 4 // 64 // 32, num_heads=32)
    in_chunks = plain.partition(b"\r\n\r\n")[2]
    message = infer_message(16 * MIB)

    def planned(_: int) -> object:
        connection = Connection(service)
        with connection.socket:
            return connection.exchange(plain)

    def ordinary(_: int) -> object:
        """A request without a length has no plan."""
        pieces = (in_chunks[start : start + MIB] for start in range(0, len(in_chunks), MIB))
        try:
            return httpx.post(
                f"{service.url}/v1/rotate",
                content=pieces,
                headers={"content-type": SAFETENSORS},
                timeout=60,
            ).status_code
        except httpx.TransportError:  # the answer came while the body was being sent
            return 503

    def over_grpc(_: int) -> object:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(service.grpc_target, options=options) as channel:
            try:
                channel.unary_unary(INFER)(message, timeout=60)
            except grpc.RpcError as failure:
                return failure.code()
        return 200

    with (
        serve(ROPE_MEMORY_BUDGET_BYTES=str(budget), ROPE_LOG_LEVEL="warning") as service,
        ThreadPoolExecutor(16) as threads,
    ):
        assert [planned(0), ordinary(0), over_grpc(0)] == [200] * 3
        idle = resident_bytes(service)
        for send in (planned, ordinary, over_grpc):
            statuses = {*threads.map(send, range(16))}
            assert statuses <= {200, 503, grpc.StatusCode.UNAVAILABLE}, send.__name__
            wait_until(lambda: admitted_bytes(service) == 0)
        assert resident_bytes(service, "VmHWM") - idle < budget + 128 * MIB
