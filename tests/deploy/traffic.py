"""Requests to a service that runs in a container, for the tests of the image and of the pod."""

import json
import math
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection

import numpy as np
import safetensors.numpy

from tests.deploy.report import check, print_line
from tests.waiting import wait_until


def check_rotate(port: int, headers: Mapping[str, str] | None = None) -> None:
    """Rotate one vector and compare it with the formula."""
    body = {"q": [[[[1, 2, 3, 4]]]], "positions": [7], "rope": {"theta": 10_000}}
    content = json.dumps(body).encode()
    status, response = post(port, "/v1/rotate", "application/json", content, headers)
    check(status == 200, f"rotate succeeds: {status} {response[:500]!r}")
    actual = json.loads(response)["q"]["data"]
    factors = [complex(math.cos(a), math.sin(a)) for a in (7.0, 0.07)]
    first, second = (1 + 3j) * factors[0], (2 + 4j) * factors[1]
    expected = [first.real, second.real, first.imag, second.imag]
    check(
        bool(np.allclose(actual, expected, rtol=1e-6)),
        f"rotate is correct: {actual}, expected {expected}",
    )
    print_line(f"rotate: {actual}")


def attend(port: int, num_tokens: int, headers: Mapping[str, str] | None = None) -> float:
    """Request attention with the known result t / 2 at token t; return the seconds it took."""
    q = np.zeros((1, num_tokens, 8, 64), np.float32)  # zeros weight all keys equally
    v = np.broadcast_to(np.arange(num_tokens, dtype=np.float32)[:, None, None], q.shape[1:])[None]
    tensors = {"q": q, "k": q[:, :, :1], "v": v[:, :, :1]}
    body = safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in tensors.items()})
    start = time.monotonic()
    status, response = post(port, "/v1/attention", "application/x-safetensors", body, headers)
    seconds = time.monotonic() - start
    check(status == 200, f"attention succeeds: {status} {response[:500]!r}")
    out = safetensors.numpy.load(response)["out"]
    check(bool(np.allclose(out, v / 2, rtol=1e-4)), "attention is correct")
    return seconds


def tokens_for(port: int, seconds: float, headers: Mapping[str, str] | None = None) -> int:
    """Return a number of tokens for which attention takes about `seconds` on this machine."""
    num_tokens = 2048
    attend(port, num_tokens, headers)  # warm-up
    return int(num_tokens * math.sqrt(seconds / attend(port, num_tokens, headers)))


def post(
    port: int, path: str, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send a request; return the status and the body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": content_type, **(headers or {})})
    response = connection.getresponse()
    return response.status, response.read()


def get(port: int, path: str, timeout_s: float = 10) -> int | None:
    """Return the status; None if there is no response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None


def metric(port: int, name: str, headers: Mapping[str, str] | None = None) -> float:
    """Return the value of a metric without labels."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers=dict(headers or {}))
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def wait(condition: str, is_met: Callable[[], bool]) -> None:
    """Wait until a condition is met, or fail with its words."""
    try:
        wait_until(is_met, 120)
    except TimeoutError:
        check(False, condition)
