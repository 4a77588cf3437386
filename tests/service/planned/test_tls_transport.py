"""TLS of a connection: records in pieces, unread answers, handshakes, certificates."""

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.access.certificates import Certificates
from service.lifecycle import Lifecycle
from service.server import connection_deadlines, tls_records
from service.server.connection_limits import STATUS_CONNECTIONS
from tests.service.certificates import Authority
from tests.service.oip.conftest import run_grpc
from tests.service.planned.requests import Client, know, rotation
from tests.service.planned.servers import all_returned, running, settled, until
from tests.service.planned.tls_client import TlsClient

EXCHANGE = rotation(16)
LARGE = rotation(4096)  # 8 MiB, more than the kernel takes for a client that does not read


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> Certificates:
    return Certificates(authority.issue("service"))


async def test_records_in_any_pieces(authority: Authority, certificates: Certificates):
    """A record in many packets, many records in a packet, and an end within a record."""
    small = rotation(1)
    async with running(certificates=certificates) as service:
        know(service, [EXCHANGE, small])
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            stream = client.encrypt(small.request)
            for start in range(0, len(stream), 97):
                await client.send(stream[start : start + 97])
                for _ in range(3):  # so that the service reads each packet alone
                    await asyncio.sleep(0)
            assert (await client.read_until(small.body)).startswith(b"HTTP/1.1 200 OK")
            await client.send(client.encrypt(EXCHANGE.request) + client.encrypt(EXCHANGE.request))
            answers = await client.read_until(EXCHANGE.body)
            if answers.count(EXCHANGE.body) == 1:
                await client.read_until(EXCHANGE.body)
        await until(lambda: not service.connections)
        assert service.statuses == [200] * 3
        await all_returned(service)


async def test_a_record_that_has_begun_is_awaited_at_the_end(
    authority: Authority, certificates: Certificates
):
    async with running(certificates=certificates) as service:
        know(service, [EXCHANGE])
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            await client.send(client.encrypt(EXCHANGE.request))
            await client.read_until(EXCHANGE.body)
            record = client.encrypt(EXCHANGE.request)
            await client.send(record[:10])
            (connection,) = service.connections
            partial = "has_undelivered_bytes"
            await until(lambda: connection._transport.get_extra_info(partial))
            service.lifecycle.drain()
            connection.shutdown()
            await client.send(record[10:])
            answer = await client.read_until(EXCHANGE.body)
            assert b"\r\nconnection: close\r\n" in answer
            assert await client.read() == b""


async def test_an_answer_that_is_read_slowly(authority: Authority, certificates: Certificates):
    """Little of it is encrypted ahead, and the rest stays where it was computed."""
    async with running(certificates=certificates) as service:
        know(service, [LARGE])
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            await client.send(client.encrypt(LARGE.request))
            await until(lambda: service.connections[0]._status)
            transport = service.connections[0]._transport
            await until(lambda: transport._transport.get_write_buffer_size())
            assert transport.get_write_buffer_size() > 2**21
            assert transport._transport.get_write_buffer_size() < tls_records.PIECE_BYTES * 1.1
            assert service.num_slabs == 1
            assert service.charged_bytes > len(LARGE.body)
            answer = bytearray()
            while not answer.endswith(LARGE.body[-64:]):
                answer += await client.read()
            assert answer.endswith(LARGE.body)
            await all_returned(service)
            await client.send(client.encrypt(LARGE.request[:100]))  # the connection goes on
            await settled(service)
            assert len(service.connections) == 1


async def test_an_answer_that_is_not_read(authority: Authority, certificates: Certificates):
    """S05: the connection is reset, and all memory is free."""
    async with running(certificates=certificates, write_stall_s=0.25) as service:
        know(service, [LARGE])
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            await client.send(client.encrypt(LARGE.request))
            await until(lambda: service.charged_bytes)
            await until(lambda: not service.connections)
            await all_returned(service)
            with pytest.raises(ConnectionResetError):
                await client.read_until(LARGE.body)


async def test_a_client_that_is_refused_while_it_sends(
    authority: Authority, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
):
    """It reads the answer and the end of TLS; when it leaves, the connection is closed."""
    monkeypatch.setattr(connection_deadlines, "CLOSING_S", 1000)
    async with running(certificates=certificates, max_body_bytes=2**16) as service:
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            start = EXCHANGE.request.replace(b"content-length: 3", b"content-length: 999993")
            await client.send(client.encrypt(start))
            answer = b""
            while part := await client.read():
                answer += part
            assert answer.startswith(b"HTTP/1.1 413 ")
            await client.send(client.encrypt(bytes(2**14)))  # the service does not read it
            await settled(service)
            assert len(service.connections) == 1
        await until(lambda: not service.connections)


@pytest.mark.parametrize("is_reset", [False, True], ids=["leaves", "resets"])
async def test_a_client_leaves(authority: Authority, certificates: Certificates, is_reset: bool):
    async with running(certificates=certificates) as service:
        know(service, [EXCHANGE])
        service.hold()
        async with TlsClient(service, authority) as client:
            await client.shake_hands()
            await client.send(client.encrypt(EXCHANGE.request))
            await until(lambda: service.num_waiting == 1)
            if is_reset:
                linger = b"\1\0\0\0\0\0\0\0"
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: not service.connections)
        await all_returned(service)
        await until(lambda: service.statuses == [499])
        service.release()


async def test_the_handshake_has_a_deadline(certificates: Certificates):
    async with running(certificates=certificates, header_timeout_s=0.01) as service:
        silent = await Client.connect(service.address)
        with suppress(ConnectionResetError):
            assert await silent.reader.read() == b""
        assert not service.connections
        silent.leave()


async def test_connections_in_a_handshake_are_counted(
    authority: Authority, certificates: Certificates
):
    """Beyond the limit a connection waits in the kernel."""
    limits = {"max_connections": 1, "header_timeout_s": 1000}
    async with running(certificates=certificates, **limits) as service:
        know(service, [EXCHANGE])
        clients = [await Client.connect(service.address) for _ in range(STATUS_CONNECTIONS + 1)]
        await until(lambda: len(service.connections) == len(clients))
        waiting = TlsClient(service, authority)
        async with waiting as surplus:
            await settled(service)
            assert len(service.connections) == len(clients)
            for client in clients:
                client.leave()
            await surplus.shake_hands()
            await surplus.send(surplus.encrypt(EXCHANGE.request))
            await surplus.read_until(EXCHANGE.body)


async def test_the_end_of_the_service_during_a_handshake(
    authority: Authority, certificates: Certificates
):
    async with running(certificates=certificates) as service:
        know(service, [EXCHANGE])
        async with TlsClient(service, authority) as client:
            await until(lambda: service.connections)
            service.lifecycle.drain()
            (connection,) = service.connections
            connection.shutdown()
            await client.shake_hands()
            await client.send(client.encrypt(EXCHANGE.request))
            assert b"\r\nconnection: close\r\n" in await client.read_until(EXCHANGE.body)
            assert await client.read() == b""


async def test_a_client_without_a_request_after_the_end(
    authority: Authority, certificates: Certificates
):
    """It has the deadline of a first request."""
    async with (
        running(certificates=certificates, header_timeout_s=0.3) as service,
        TlsClient(service, authority) as client,
    ):
        await until(lambda: service.connections)
        (connection,) = service.connections
        service.lifecycle.drain()
        connection.shutdown()
        await client.shake_hands()
        async with asyncio.timeout(30):
            assert await client.read() == b""


async def test_client_certificates_over_http(authority: Authority, tmp_path: Path):
    files = authority.issue("service")._replace(client_ca=authority.file)
    stranger = Authority(tmp_path, "stranger")
    async with running(certificates=Certificates(files)) as service:
        know(service, [EXCHANGE])
        for certificate in (None, stranger.issue("client")):
            context = authority.client_context(certificate)
            refused = await Client.connect(service.address, tls=context)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await refused.ask(EXCHANGE.request)
            refused.writer.transport.abort()
        await until(lambda: not service.connections)
        assert service.statuses == []
        context = authority.client_context(authority.issue("client"))
        client = await Client.connect(service.address, tls=context)
        assert (await client.ask(EXCHANGE.request)).body == EXCHANGE.body
        client.writer.transport.abort()


async def test_client_certificates_over_grpc(authority: Authority, tmp_path: Path):
    files = authority.issue("service")._replace(client_ca=authority.file)
    own, foreign = authority.issue("client"), Authority(tmp_path, "stranger").issue("client")
    root = authority.file.read_bytes()
    async with run_grpc(Lifecycle(), {}, certificates=Certificates(files)) as server:
        for client in (None, foreign, own):
            pair = (None, None) if client is None else (client.key, client.certificate)
            key, chain = (file and file.read_bytes() for file in pair)
            credentials = grpc.ssl_channel_credentials(root, key, chain)
            async with grpc.aio.secure_channel(server.target, credentials) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                if client is own:
                    await check(health_pb2.HealthCheckRequest(), timeout=30)
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await check(health_pb2.HealthCheckRequest(), timeout=30)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
