"""The service as a process: warm-up, drain, deadlines and exit."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch

from service.exit_codes import NOT_LISTENING
from service.lifecycle import Lifecycle, Phase
from service.wire import Message, Parameters
from service.wire import safetensors_codec as codec
from tests.conftest import ROOT, Serve, Started
from tests.waiting import wait_until

DRAIN = {"ROPE_DRAIN_DELAY_S": "3", "ROPE_DRAIN_S": "20"}


def slow_body(length: int = 3000) -> bytes:
    """Attention that takes a second or so."""
    q = torch.randn(1, length, 8, 64)
    return b"".join(
        codec.encode(Message({"q": q, "k": q, "v": q}, Parameters.of({"softcap": 5.0})))
    )


def post(url: str, body: bytes) -> httpx.Response:
    headers = {"content-type": codec.media_type}
    return httpx.post(f"{url}/v1/attention", content=body, headers=headers, timeout=60)


class Background(threading.Thread):
    """Sends one slow request and keeps its answer."""

    def __init__(self, url: str, body: bytes | None = None) -> None:
        super().__init__()
        self._url = url
        self._body = body or slow_body()
        self.response: httpx.Response | None = None
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self.response = post(self._url, self._body)
        except httpx.TransportError as failure:
            self.failure = failure


def begin_slow(url: str, body: bytes | None = None) -> Background:
    """Return a slow request whose call an idle service has put into its queue, or begun."""
    slow = Background(url, body)
    slow.start()
    wait_until(lambda: metric(url, "rope_predicted_wait_seconds") > 0)
    return slow


def metric(url: str, name: str) -> float:
    """Return the value of a metric, 0 if there is none yet."""
    lines = [line.rpartition(" ") for line in httpx.get(f"{url}/metrics").text.splitlines()]
    return sum(float(value) for labelled_name, _, value in lines if labelled_name == name)


def test_phases_go_one_way():
    lifecycle = Lifecycle()
    assert lifecycle.phase is Phase.WARMING_UP
    lifecycle.warmed_up()
    assert lifecycle.phase is Phase.READY
    lifecycle.drain()
    lifecycle.warmed_up()
    assert lifecycle.phase is Phase.DRAINING


async def test_ready_after_the_warm_up_and_not_while_draining(client, lifecycle):
    async for phase in lifecycle.changes():
        if phase is Phase.READY:
            break
        assert (await client.get("/readyz")).status_code == 503
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    lifecycle.drain()
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200


def test_sigterm_drains(serve: Serve):
    with serve(forked=False, **DRAIN) as (url, process):
        slow = begin_slow(url)
        process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=url, timeout=60) as client:
            wait_until(lambda: client.get("/readyz").json() == {"status": "draining"})
            assert client.get("/healthz").status_code == 200
            small = {"q": [[[1, 2]]]}
            assert client.post("/v1/rotate", json=small).status_code == 200, "still accepted"
        slow.join()
        assert slow.response is not None, slow.failure
        assert slow.response.status_code == 200
        assert process.wait(10) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


def test_a_request_in_flight_outlives_the_listener(serve: Serve):
    with serve(ROPE_DRAIN_DELAY_S="0", ROPE_DRAIN_S="20") as (url, process):
        slow = begin_slow(url)
        process.send_signal(signal.SIGTERM)
        slow.join()
        assert slow.response is not None, slow.failure
        assert slow.response.status_code == 200
        assert process.wait(10) == 0


def test_a_call_that_outlasts_the_drain_is_answered_with_503(serve: Serve):
    variables = {"ROPE_DRAIN_DELAY_S": "0", "ROPE_DRAIN_S": "0.3"}
    with serve(**variables, ROPE_MAX_CALL_S="60", ROPE_THREADS="2") as (url, process):
        slow = begin_slow(url, slow_body(12_000))
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        slow.join()
        assert slow.response is not None, slow.failure
        assert (slow.response.status_code, slow.response.json()["code"]) == (503, "shutting_down")
        assert slow.response.headers["retry-after"]
        assert process.wait(10) == 0
        assert time.monotonic() - started < 4, "the call itself would take longer"


def test_sigterm_while_starting_ends_the_start():
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--drain-delay-s", "0"],
        cwd=ROOT,
        env=os.environ | {"ROPE_HTTP_PORT": "0", "ROPE_GRPC_PORT": "0"},
    )
    # the start replaces the process once, to set the C library's options
    arguments = Path(f"/proc/{process.pid}/environ")
    wait_until(lambda: b"GLIBC_TUNABLES" in arguments.read_bytes())
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


def test_an_idle_service_ends_soon_after_ctrl_c(serve: Serve):
    with serve(forked=False, ROPE_DRAIN_DELAY_S="30") as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0


def test_a_queued_call_is_dropped_when_its_client_leaves(server_url):
    left = 'rope_requests_total{route="/v1/rotate",status="499"}'
    before, num_run = metric(server_url, left), metric(server_url, "rope_batch_requests_sum")
    slow = begin_slow(server_url)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server_url}/v1/rotate", json={"q": [[[1, 2]]]}, timeout=0.1)
    wait_until(lambda: metric(server_url, left) == before + 1)
    assert metric(server_url, "rope_queue_depth") == 0
    slow.join()
    assert metric(server_url, "rope_batch_requests_sum") == num_run + 1, "the slow call alone"
    wait_until(lambda: metric(server_url, "rope_admitted_bytes") == 0)


def test_a_deadline_that_passes_in_the_queue(server_url):
    slow = begin_slow(server_url, slow_body(5000))
    try:
        late = httpx.post(
            f"{server_url}/v1/rotate",
            json={"q": [[[1, 2]]]},
            headers={"X-Request-Timeout-Ms": "100"},
            timeout=60,
        )
        assert (late.status_code, late.json()["code"]) == (504, "timed_out")
        assert slow.is_alive(), "the answer did not wait for the call on the device"
    finally:
        slow.join()  # what it takes is charged until then


def test_a_body_that_does_not_come_is_given_up_at_the_deadline(server_url):
    port = int(server_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stalled:
        stalled.sendall(
            b"POST /v1/rotate HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n"
            b"Content-Type: application/x-safetensors\r\nX-Request-Timeout-Ms: 300\r\n\r\nhalf"
        )
        started = time.monotonic()
        assert stalled.recv(4096).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - started < 2
    wait_until(lambda: metric(server_url, "rope_admitted_bytes") == 0)


def test_many_small_sequences_do_not_hold_up_the_others(server_url):
    q = torch.zeros(10_000, 1, 2)
    tensors = {"q": q, "k": q, "v": q, "cu_seqlens": torch.arange(10_001)}
    slow = Background(server_url, b"".join(codec.encode(Message(tensors))))
    num_answers = 0
    slow.start()
    with httpx.Client(base_url=server_url, timeout=60) as client:
        while slow.is_alive():
            client.get("/healthz")
            num_answers += 1
    assert slow.response is not None, slow.failure
    assert slow.response.status_code == 200
    assert num_answers > 10  # 2 or 3, if the event loop computed


def test_a_port_that_is_taken_ends_the_start(server_url):
    port = server_url.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--http-port", port, "--grpc-port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == NOT_LISTENING == 3
    assert second.stderr == ""
    errors = [
        line for line in map(json.loads, second.stdout.splitlines()) if line["level"] == "error"
    ]
    (said,) = [line["message"] for line in errors]
    assert f"127.0.0.1:{port}: another process" in said
    assert "ROPE_HTTP_PORT" in said


def test_one_line_of_json_for_each_request(server: Started):
    """The probe of health has none, and the last request comes after it."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "one-line", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    last = {"x-request-id": "one-line-last"}
    httpx.post(f"{server.url}/v1/rotate", json={"q": [[[1, 2]]]}, headers=headers)
    httpx.get(f"{server.url}/healthz", headers=headers)
    httpx.get(f"{server.url}/no%0awhere", headers=last)
    (found,) = server.requests_logged("one-line-last")
    assert found["path"] == "/no\nwhere"
    (first,) = server.requests_logged("one-line")
    assert (first["message"], first["path"]) == ("request", "/v1/rotate")
    assert (first["trace_id"], first["status"]) == (trace, 200)
