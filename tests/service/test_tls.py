"""HTTP and gRPC over TLS, against a service in another process."""

import json
import re
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rope_client import Client
from rope_core import RopeConfig, Rotate, rotate
from service.access.certificates import TlsFiles
from service.server.serve import serve as serve_until_end
from service.settings import Settings
from tests.conftest import Serve, Started
from tests.service.certificates import Authority
from tests.service.test_connection_border import (
    JSON,
    LAST,
    ROTATE,
    header,
    post,
    read_all,
    read_answer,
    split,
)
from tests.waiting import wait_until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Secured(NamedTuple):
    """A service over TLS."""

    started: Started
    authority: Authority
    files: TlsFiles
    serve: Serve

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        plain = self.connect_plain()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = context or self.authority.client_context()
        return context.wrap_socket(plain, server_hostname="localhost")

    def connect_plain(self) -> socket.socket:
        host, port = self.started.url.removeprefix("https://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def exchange(self, *packets: bytes) -> list[tuple[int, bytes]]:
        """Send all packets, then return statuses and bodies of the answers."""
        with self.connect() as connection:
            for packet in packets:
                connection.sendall(packet)
            return [(answer.status, answer.body) for answer in split(read_all(connection))]

    def subject(self) -> str:
        """Return the name in the certificate of a new connection."""
        with self.connect() as connection:
            return connection.getpeercert()["subject"][0][0][1]

    def grpc_subject(self) -> str:
        """Return the name in the certificate of a new connection of gRPC."""
        host, port = self.started.grpc_target.split(":")
        context = self.authority.client_context()
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host, int(port)), timeout=30)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            return connection.getpeercert()["subject"][0][0][1]

    def replace(self, name: str) -> None:
        """Replace the certificate by a new one with that name."""
        new = self.authority.issue(name)
        shutil.copy(new.key, self.files.key)
        shutil.copy(new.certificate, self.files.certificate)


@pytest.fixture(scope="module")
def secured(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    files = authority.issue("first")
    variables = {"CERT": files.certificate, "KEY": files.key}
    variables = {f"ROPE_TLS_{name}_FILE": str(file) for name, file in variables.items()}
    with serve(tls=authority.client_context(), ROPE_DRAIN_DELAY_S="0", **variables) as started:
        yield Secured(started, authority, files, serve)


def test_the_log_names_the_scheme(secured: Secured):
    assert f"running on {secured.started.url} " in secured.serve.last_log()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_the_handshake(secured: Secured):
    context = secured.authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured.connect(context) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"
    context = secured.authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with secured.connect(context) as connection:
        assert connection.version() == "TLSv1.2"
        connection.sendall(HEALTH)
        assert read_answer(connection).status == 200
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        secured.connect(context)


@pytest.mark.parametrize("sent", [HEALTH, bytes(range(256)), b"\x16\x03\x01\x40\x00"], ids=repr)
def test_bytes_that_are_no_tls(secured: Secured, sent: bytes):
    """The connection is closed; a reset would be a `ConnectionResetError`."""
    with secured.connect_plain() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        alert = read_all(connection)
        assert len(alert) < 10
        assert not alert.startswith(b"HTTP")


@pytest.mark.parametrize("num_tokens", [1, 2**11], ids=["small", "32 MiB"])
def test_rotations_of_the_python_client(secured: Secured, num_tokens: int):
    """The first request is ordinary, the second one is planned."""
    q = np.random.default_rng(0).standard_normal((1, num_tokens, 32, 128), dtype=np.float32)
    positions = torch.arange(num_tokens)[None]
    expected = rotate(Rotate(torch.from_numpy(q), None, RopeConfig.of(128), positions)).q
    with Client(secured.started.url, ca_file=secured.authority.file) as client:
        for _ in range(2):
            rotated = client.rotate(q=q, positions=positions.numpy()).q
            assert rotated.tobytes() == expected.numpy().tobytes()


def test_pipelined_requests(secured: Secured):
    requests = HEALTH * 50 + post(ROTATE) + HEALTH * 50 + LAST
    statuses = [status for status, _ in secured.exchange(requests)]
    assert statuses == [200] * 101 + [404]
    with secured.connect() as connection:
        for _ in range(3):
            connection.sendall(post(ROTATE))
            assert b'"q"' in read_answer(connection).body


def test_a_client_that_sends_first_reads_the_answer(secured: Secured):
    """The service ends its side of TLS and of TCP, and reads on."""
    size = 2**24 + 1
    ((status, body),) = secured.exchange(header(JSON, f"Content-Length: {size}"), bytes(size))
    assert (status, json.loads(body)["code"]) == (413, "too_large")


def test_a_client_ends_in_the_middle_of_a_body(secured: Secured):
    """F26: the end of TLS, and that of TCP alone."""
    for end in (lambda tls: tls.unwrap(), lambda tls: socket.socket.shutdown(tls, socket.SHUT_WR)):
        with secured.connect() as connection:
            connection.sendall(post(ROTATE)[:-5])
            try:
                end(connection)
                assert connection.recv(1) == b""
            except ssl.SSLEOFError:
                pass  # `unwrap` of a connection that the service has closed


def test_errors_of_http(secured: Secured):
    """Requests that are refused, and one whose scheme the application names."""
    for request, status in (
        (post(ROTATE, host=""), 400),
        (post(ROTATE, path="/nowhere") + LAST, 404),
        (header()[:-2] + b"X: " + b"a" * 2**17 + LAST, 431),
    ):
        (first, *_) = secured.exchange(request)
        assert first[0] == status


def test_grpc(secured: Secured):
    root = secured.authority.file.read_bytes()
    with grpc.secure_channel(
        secured.started.grpc_target, grpc.ssl_channel_credentials(root)
    ) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert serving.status == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(secured.started.grpc_target) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_new_certificates(secured: Secured):
    """By SIGHUP, and when the files change; open connections stay open."""
    with secured.connect() as connection:
        secured.replace("second")
        secured.started.process.send_signal(signal.SIGHUP)
        wait_until(lambda: secured.subject() == "second")
        assert secured.grpc_subject() == "second"
        secured.replace("third")
        wait_until(lambda: secured.subject() == "third")
        secured.files.key.write_text("no key")
        secured.started.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the certificate was not reloaded" in secured.serve.last_log())
        assert secured.subject() == secured.grpc_subject() == "third"
        connection.sendall(HEALTH)
        assert read_answer(connection).status == 200


def test_the_end_of_the_service(secured: Secured):
    """The last test of the file: an idle connection is closed, and the process ends."""
    with secured.connect() as idle:
        idle.sendall(HEALTH)
        assert read_answer(idle).status == 200
        secured.started.process.send_signal(signal.SIGTERM)
        assert read_all(idle) == b""
        assert secured.started.process.wait(30) == 0
    assert not re.search("Traceback|exception", secured.serve.last_log())


def test_files_that_cannot_be_used_stop_the_start():
    """The service exits with one line before it does anything else."""
    settings = Settings(tls_cert_file="/nowhere.crt", tls_key_file="/nowhere.key")
    with pytest.raises(
        SystemExit, match=r"^rope-service: TLS: cannot read /nowhere.crt: No such file or dir"
    ):
        serve_until_end(settings)
