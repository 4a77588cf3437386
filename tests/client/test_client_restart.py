"""A restart of the service loses no call of a client with default settings."""

import asyncio
import itertools
import logging

import anyio
import httpx
import pytest

from rope_client import AsyncClient, ConnectionFailed, Overloaded, RetryPolicy
from rope_client.attempts import Attempts, OutageLog, Pause, Settings
from rope_client.call import Call, Response
from rope_client.calls import version

OK = httpx.Response(200, json={"version": "1"})


class Restart:
    """Answers, but refuses from 100 s to `end_s` in the ways of a service that restarts.

    Each attempt takes a millisecond.
    """

    def __init__(self, time, end_s):
        self._time = time
        self._end_s = end_s
        self._refusals = itertools.cycle(
            [
                httpx.Response(503, json={"code": "shutting_down"}, headers={"retry-after": "1"}),
                httpx.RemoteProtocolError("Server disconnected without sending a response."),
                httpx.ReadError("reset"),
                httpx.ConnectError("refused"),
                httpx.ConnectError("refused"),
                httpx.Response(503, json={"code": "warming_up"}),
            ]
        )

    def __call__(self, _):
        self._time.now_s += 0.001
        if not 100 <= self._time.now_s < self._end_s:
            return OK
        return next(self._refusals)


@pytest.mark.parametrize("outage_s", [0.6, 2, 5, 20])
@pytest.mark.parametrize("begun_s", [99.9, 100, 100.5])
async def test_no_call_is_lost(connect, answering, time, outage_s, begun_s):
    for uniform in (0.0, 0.5, 0.999):
        time.now_s, time.pauses = begun_s, []
        retry = RetryPolicy(uniform=lambda chance=uniform: chance)
        ask = connect(answering(Restart(time, 100 + outage_s)), retry=retry)
        for _ in range(3):
            assert await ask("version") == {"version": "1"}
            time.sleep(0.3)
        assert all(pause <= 1 + retry.max_pause_s for pause in time.pauses)


def test_the_default_has_no_number_of_attempts():
    assert RetryPolicy().max_attempts is None


async def test_a_call_that_is_not_idempotent_is_sent_once(answering, time):
    call = Call(
        path="/v1/some",
        message=None,
        read=lambda response: response.status,
        options={},
        is_idempotent=False,
    )
    for failure in (httpx.Response(503), httpx.ConnectError("refused"), httpx.ReadError("reset")):
        server = answering(failure, OK)
        async with AsyncClient(transport=httpx.MockTransport(server), clock=time.clock) as client:
            with pytest.raises((Overloaded, ConnectionFailed)):
                await client.send(call)
        assert len(server.requests) == 1


def test_a_certificate_that_is_not_valid_is_not_retried():
    settings = Settings(encoding="json", timeout_s=9, retry=RetryPolicy(), clock=lambda: 0.0)
    failure = ConnectionFailed("the certificate has expired")
    failure.is_transient = False
    attempts = Attempts(version(), settings, OutageLog())
    attempts.request()
    with pytest.raises(ConnectionFailed):
        attempts.receive(failure)


async def test_an_outage_is_logged_once_until_a_call_is_answered(connect, answering, time, caplog):
    lost = [httpx.ConnectError("refused")] * 8
    ask = connect(answering(*lost, OK, *lost, OK), base_url="http://rope:1")
    with caplog.at_level(logging.WARNING, "rope_client"):
        for outages in (1, 2):
            await ask("version")
            assert len(caplog.messages) == outages
    assert "retried until their deadline: no connection to http://rope:1" in caplog.messages[0]


async def test_two_or_three_failures_are_not_logged(connect, answering, caplog):
    await connect(answering(*[httpx.ConnectError("refused")] * 3, OK))("version")
    assert caplog.messages == []


async def test_a_call_that_pauses_keeps_its_place_until_it_is_cancelled(answering):
    paused, sent = asyncio.Event(), []

    async def sleep(_):
        paused.set()
        await anyio.sleep_forever()

    def server(request):
        sent.append(request)
        return httpx.Response(503) if len(sent) == 1 else OK

    transport = httpx.MockTransport(server)
    async with AsyncClient(transport=transport, sleep=sleep, max_concurrency=1) as client:
        first = asyncio.create_task(client.version())
        await paused.wait()
        second = asyncio.create_task(client.version())
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(sent) == 1
        first.cancel()
        assert await second == {"version": "1"}


def test_the_longest_outage_by_the_deadline():
    """Attempts follow each other up to the deadline, at most `max_pause_s` apart."""
    now_s = 0.0
    retry = RetryPolicy(uniform=lambda: 0.999)
    settings = Settings(encoding="json", timeout_s=30, retry=retry, clock=lambda: now_s)
    attempts = Attempts(version(), settings, OutageLog())
    with pytest.raises(Overloaded) as raised:  # noqa: PT012 - the last attempt is the one meant
        while True:
            attempts.request()
            pause = attempts.receive(Response(503, {}, b""))
            assert isinstance(pause, Pause)
            now_s += pause.seconds
    assert 30 - retry.max_pause_s <= now_s < 30
    assert 10 < raised.value.attempts < 30
