"""The gRPC server of a service in another process: its log, signals, and a port that is taken."""

import json
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from service.__main__ import GRPC_EXPERIMENTS
from service.exit_codes import NOT_LISTENING
from service.oip.grpc.messages import METHODS
from tests.conftest import Serve, Started
from tests.service.oip.test_grpc_life import CHECK, CODE, PREFACE
from tests.service.test_lifecycle import metric
from tests.waiting import wait_until


class Watcher(threading.Thread):
    """Watches the health of a service and records each status with its time."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__()
        self._watching = health_pb2_grpc.HealthStub(channel).Watch(CHECK)
        self.statuses: list[tuple[str, float]] = []
        self.start()

    def run(self) -> None:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name
        for response in self._watching:
            self.statuses.append((name(response.status), time.monotonic()))
        self.statuses.append((self._watching.code().name, time.monotonic()))

    def wait_for(self, status: str) -> None:
        """Return when the last status is this one."""
        wait_until(lambda: self.statuses[-1:] and self.statuses[-1][0] == status)


def test_sigterm_drains_without_waiting_for_idle_peers(serve: Serve):
    with serve(forked=False, ROPE_DRAIN_DELAY_S="1.5", ROPE_DRAIN_S="20") as started:
        port = int(started.grpc_target.rpartition(":")[2])
        with (
            grpc.insecure_channel(started.grpc_target) as channel,
            socket.create_connection(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", port)) as mute,
        ):
            mute.sendall(PREFACE)
            watcher = Watcher(channel)
            stop = threading.Event()

            def no_requests():
                stop.wait()
                yield from ()

            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            idle = reflection.ServerReflectionInfo(no_requests())
            watcher.wait_for("SERVING")
            signalled = time.monotonic()
            started.process.send_signal(signal.SIGTERM)
            watcher.wait_for("NOT_SERVING")
            assert channel.unary_unary(METHODS["ServerLive"].path)(b"") == b"\x08\x01"
            assert channel.unary_unary(METHODS["ServerReady"].path)(b"") == b""
            assert started.process.wait(10) == 0
            seconds = time.monotonic() - signalled
            watcher.join(10)
            stop.set()
            assert idle.code() is CODE.UNAVAILABLE
    assert 1.4 < seconds < 4
    assert [status for status, _ in watcher.statuses] == ["SERVING", "NOT_SERVING", "OK"]
    assert watcher.statuses[1][1] - signalled < 1, "sent at the signal, not at the end"
    assert watcher.statuses[2][1] - signalled > 1.3


def test_sockets_are_read_by_the_thread_that_waits_for_rpcs(server: Started, channel: grpc.Channel):
    """The core of grpcio writes a line about a switch that it does not know."""
    assert channel.unary_unary(METHODS["ServerLive"].path)(b"") == b"\x08\x01"
    variables = Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert f"GRPC_EXPERIMENTS={GRPC_EXPERIMENTS}".encode() in variables.split(b"\0")
    assert "xperiment" not in server.log.read_text()


def test_a_second_signal_ends_the_process(serve: Serve):
    with (
        serve(ROPE_DRAIN_DELAY_S="30") as started,
        grpc.insecure_channel(started.grpc_target) as channel,
    ):
        watcher = Watcher(channel)
        watcher.wait_for("SERVING")
        started.process.send_signal(signal.SIGTERM)
        watcher.wait_for("NOT_SERVING")
        assert httpx.get(f"{started.url}/readyz").json() == {"status": "draining"}
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(5) == 0
        watcher.join(10)


def test_the_start_fails_if_the_port_is_taken(server: Started):
    port = server.grpc_target.rpartition(":")[2]
    second = subprocess.run(
        [*server.process.args, "serve", "--http-port", "0", "--grpc-port", port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == NOT_LISTENING == 3
    errors = [json.loads(line) for line in second.stdout.splitlines()]
    (error,) = [line for line in errors if line["level"] == "error"]
    assert error["message"] == (
        f"cannot listen on 127.0.0.1:{port}: another process listens there; "
        "choose another port with ROPE_GRPC_PORT, or 0 for a free one; "
        "a second service needs its own ROPE_HTTP_PORT and ROPE_GRPC_PORT"
    )
    assert second.stderr == ""


def test_every_rpc_except_health_logs_one_line_of_json(server: Started, channel: grpc.Channel):
    """The last RPC comes after those that have no line."""
    counted = 'rope_requests_total{route="/grpc.health.v1.Health/Check",status="OK"}'
    before = metric(server.url, counted)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (
        ("x-request-id", "one-rpc"),
        ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
    )
    health_pb2_grpc.HealthStub(channel).Check(CHECK, metadata=metadata)
    channel.unary_unary(METHODS["ServerReady"].path)(b"", metadata=metadata)
    channel.unary_unary(METHODS["ServerMetadata"].path)(b"", metadata=metadata)
    last = (("x-request-id", "last-rpc"),)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(METHODS["ModelConfig"].path)(b"\xff", metadata=last)
    assert metric(server.url, counted) == before + 1
    (second,) = server.requests_logged("last-rpc")
    (first,) = server.requests_logged("one-rpc")
    assert (first["path"], first["status"]) == (METHODS["ServerMetadata"].path, "OK")
    assert (first["method"], first["trace_id"]) == ("gRPC", trace)
    assert (second["path"], second["status"]) == (METHODS["ModelConfig"].path, "INVALID_ARGUMENT")
