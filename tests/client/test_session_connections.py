"""Streams over TCP, TLS and Unix-domain sockets, and what happens when a connection is lost."""

import ssl

import pytest

from rope_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    RetryPolicy,
    SessionConflict,
    SessionGone,
    TimedOut,
)
from tests.client.fake_service import FakeService
from tests.client.session_tools import CONFIGURATION, tokens
from tests.service.certificates import Authority

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture
def service():
    fake = FakeService()
    yield fake
    fake.close()


async def both(url, **options):
    """Step over a stream with both clients."""
    with (
        Client(url, **options) as client,
        client.session(**CONFIGURATION) as session,
        session.stream() as stream,
    ):
        stream.step(0, *tokens(1))
        assert stream.step(0, *tokens(2)).out.shape == (1, 2, 4, 8)
    async with (
        AsyncClient(url, **options) as client,
        client.session(**CONFIGURATION) as session,
        session.stream() as stream,
    ):
        await stream.step(0, *tokens(1))
        assert (await stream.step(0, *tokens(2))).out.shape == (1, 2, 4, 8)


async def test_a_unix_domain_socket(tmp_path):
    service = FakeService(socket_path=tmp_path / "rope.sock")
    await both(service.url)
    service.close()


async def test_tls(tmp_path):
    authority = Authority(tmp_path)
    files = authority.issue("service")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    service = FakeService(tls=context)
    await both(service.url, ca_file=authority.file)
    service.close()


def test_a_certificate_that_is_not_valid_is_not_tried_again(tmp_path):
    authority = Authority(tmp_path)
    files = authority.issue("service")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    service = FakeService(tls=context)
    with Client(service.url, ca_file=authority.file) as client:
        session = client.session(**CONFIGURATION)
    with Client(service.url) as other:
        session.client = other
        with session.stream() as stream, pytest.raises(ConnectionFailed) as raised:
            stream.step(0, *tokens(1))
    assert raised.value.attempts == 1
    service.close()


async def test_an_idle_connection_that_was_closed(service):
    """It is opened again at once, also by a client that does not try again."""
    with Client(service.url, retry=ONCE) as client, client.session(**CONFIGURATION) as session:
        with session.stream() as stream:
            for n in range(3):
                stream.step(0, *tokens(1))
                service.close_streams()
                assert service.num_connections == n + 1
        assert session.length == (3,)
    async with (
        AsyncClient(service.url, retry=ONCE) as client,
        client.session(**CONFIGURATION) as session,
        session.stream() as stream,
    ):
        for _ in range(3):
            await stream.step(0, *tokens(1))
            service.close_streams()
        assert session.length == (3,)


def test_a_late_answer_is_not_taken_for_the_next(service):
    with Client(service.url) as client, client.session(**CONFIGURATION) as session:
        with session.stream() as stream:
            q, k, v = tokens(2)
            held = service.sessions[session.id].lock
            with held, pytest.raises(TimedOut):
                stream.step(0, q, k, v, timeout_s=0.1)
            again = stream.step(0, q, k, v)
            assert again.out.shape == q.shape
            assert session.length == (2,)
        assert service.num_connections == 2


def test_another_step_after_a_lost_answer_is_refused(service):
    """The caller gives up a step whose answer is lost, and sends another: it must not fit."""
    with Client(service.url, retry=ONCE) as client, client.session(**CONFIGURATION) as session:
        q, k, v = tokens(1)
        service.num_lost = 1
        with pytest.raises(ConnectionFailed):
            session.step(0, q, k, v)
        with pytest.raises(SessionConflict):
            session.step(0, q, v, k)
        session.step(0, q, k, v)
        assert session.length == (1,)


def test_a_stream_of_a_session_that_has_gone(service):
    with Client(service.url) as client:
        session = client.session(**CONFIGURATION)
        service.end(session.id, "evicted")
        with session.stream() as stream, pytest.raises(SessionGone) as raised:
            stream.step(0, *tokens(1))
        assert raised.value.reason == "evicted"


def test_no_service():
    client = Client("http://127.0.0.1:9", retry=ONCE, timeout_s=2)
    with client, pytest.raises(ConnectionFailed):
        client.session(**CONFIGURATION)
