"""A service under attack, with checks of its health, memory, descriptors and log."""

import json
import math
import os
import re
import struct
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.attacks.requests import ROTATE, SAFETENSORS, entry, get, post, safetensors, send
from tests.attacks.sockets import connect, exchange, read_answer
from tests.conftest import Started

ROTATED = (1.0, 0.0, math.cos(1), math.sin(1))
PACKED = send(
    safetensors(
        {"q": entry([2, 1, 2], 0, 16), "positions": entry([2], 16, 32, "I64")},
        struct.pack("<4f2q", 1, 0, 1, 0, 0, 1),
    ),
    SAFETENSORS,
)
"""A rotation that has a plan from its third time on."""

REPOSITORY = Path(__file__).parents[2]

LEAK = re.compile(
    rb'Traceback|File "|\.py\b|0x[0-9a-f]{6,}|site-packages|/home/|/usr/|object at|orjson|pydantic'
    rb"|torch\.|numpy|simdjson|zlib|httptools|errno|" + re.escape(bytes(REPOSITORY)),
    re.IGNORECASE,
)
"""Texts that no answer may contain: paths, addresses, names of libraries, texts of exceptions."""


class WatchedService:
    """A service, and clients that send valid requests between the rows."""

    def __init__(self, started: Started, clients: ExitStack) -> None:
        self.started = started
        self._clients = [clients.enter_context(connect(started)) for _ in range(3)]
        for _ in range(4):
            self.check()
        self.metrics_before = self.metrics()
        self.descriptors_before = self.num_descriptors()
        self.resident_before = self.resident_bytes()

    def check(self) -> None:
        """Check that the service is live, and rotates correctly with a plan and without a plan."""
        health, planned, ordinary = self._clients
        health.sendall(get("/healthz"))
        planned.sendall(PACKED)
        ordinary.sendall(post(ROTATE))
        assert read_answer(health).status == 200
        packed, listed = read_answer(planned), read_answer(ordinary)
        assert (packed.status, listed.status) == (200, 200)
        for values in (
            struct.unpack("<4f", packed.body[-16:]),
            json.loads(listed.body)["q"]["data"],
        ):
            assert all(
                math.isclose(a, b, abs_tol=1e-6) for a, b in zip(values, ROTATED, strict=True)
            )

    def metrics(self) -> str:
        """Return the text of /metrics."""
        return httpx.get(f"{self.started.url}/metrics").text

    def admitted_bytes(self) -> float:
        """Return the charged memory in bytes."""
        return float(re.search(r"^rope_admitted_bytes (\S+)", self.metrics(), re.MULTILINE)[1])

    def resident_bytes(self) -> int:
        """Return the resident memory of the service in bytes."""
        status = Path(f"/proc/{self.started.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 2**10

    def num_descriptors(self) -> int:
        """Return the number of open descriptors of the service."""
        return len(os.listdir(f"/proc/{self.started.process.pid}/fd"))

    def solo(self, request: bytes) -> bytes:
        """Return the body of the answer to a request that is sent alone."""
        answer, _ = exchange(self.started, request + get("/behind", "Connection: close"))
        assert answer.status == 200
        return answer.body
