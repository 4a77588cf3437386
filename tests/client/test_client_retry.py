"""Trying again: as late as the service asks, never past the deadline, always the same call."""

from contextlib import suppress

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rope_client import ConnectionFailed, Overloaded, RetryPolicy, TimedOut, UnexpectedAnswer
from rope_client.wire import safetensors_codec

OK = httpx.Response(200, json={"version": "1"})
FULL = httpx.Response(503, json={"code": "overloaded"})
LOST = httpx.ConnectError("refused")


def full(retry_after):
    return httpx.Response(503, headers={"retry-after": retry_after})


def taking(seconds, time, answer):
    """Return an answer that takes so long."""

    def late(_):
        time.now_s += seconds
        return answer

    return late


@pytest.mark.parametrize(
    "failure",
    [FULL, full("1"), httpx.Response(429), httpx.Response(502), LOST, httpx.ReadError("reset")],
)
async def test_a_failure_that_passes_is_not_seen(connect, answering, failure):
    server = answering(failure, failure, OK)
    assert await connect(server)("version") == {"version": "1"}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "final", [httpx.Response(422), httpx.Response(504), httpx.Response(500), httpx.ReadTimeout("")]
)
async def test_a_failure_that_stays_is_not_tried_again(connect, answering, time, final):
    server = answering(final, OK)
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is tested with the errors
        await connect(server)("version")
    assert len(server.requests) == 1
    assert time.pauses == []


async def test_one_call_has_one_id_and_one_body(connect, answering):
    server = answering(FULL, LOST, OK)
    ask = connect(server)
    await ask("version")
    (first,) = {request.headers["x-request-id"] for request in server.requests}
    await ask("version")
    assert server.requests[-1].headers["x-request-id"] != first


async def test_a_given_id_is_sent(connect, answering):
    server = answering(OK)
    await connect(server)("version", request_id="mine")
    assert server.requests[0].headers["x-request-id"] == "mine"


async def test_retry_after_is_honoured(connect, answering, time):
    await connect(answering(full("3"), full("1"), OK))("version")
    assert [int(seconds) for seconds in time.pauses] == [3, 1]


SENT = {"date": "Fri, 31 Dec 2027 23:59:50 GMT"}


@pytest.mark.parametrize(
    ("retry_after", "headers", "seconds"),
    [
        ("Fri, 31 Dec 2027 23:59:54 GMT", SENT, 4),
        ("Sat, 01 Jan 2028 00:00:05 GMT", SENT, 15),
        ("Fri, 31 Dec 2027 23:59:00 GMT", SENT, 0),
        ("Fri, 31 Dec 2027 23:59:54 GMT", {}, 0),
        ("Fri, 31 Dec 2027 23:59:54", SENT, 0),
        *((text, SENT, 0) for text in ("soon", "-1", "1.5", "", "Fri, 99 Dec 2027 23:59:54 GMT")),
    ],
)
async def test_a_date_in_retry_after_counts_from_the_date_of_the_answer(
    connect, answering, time, retry_after, headers, seconds
):
    refused = httpx.Response(503, headers={"retry-after": retry_after, **headers})
    assert await connect(answering(refused, OK))("version")
    assert seconds <= time.pauses[0] <= seconds + RetryPolicy().first_pause_s


async def test_the_time_left_is_sent_with_each_attempt(connect, answering, time):
    server = answering(taking(0.5, time, full("2")), OK)
    await connect(server, timeout_s=10)("version")

    header_ms = [int(request.headers["x-request-timeout-ms"]) for request in server.requests]
    assert header_ms == [10_000, round(10_000 - 500 - time.pauses[0] * 1e3)]
    applied = [request.extensions["timeout"]["read"] for request in server.requests]
    assert applied == pytest.approx([ms / 1e3 for ms in header_ms], abs=1e-3)


async def test_the_header_of_the_first_attempt_does_not_depend_on_the_time_to_encode(
    connect, answering, time, monkeypatch
):
    """The service has a plan for requests whose header repeats."""
    server, encode = answering(full("1"), OK), safetensors_codec.encode

    def slow_encode(message):
        time.now_s += 0.25
        return encode(message)

    monkeypatch.setattr(safetensors_codec, "encode", slow_encode)
    q = np.zeros((1, 1, 1, 2), np.float32)
    with suppress(UnexpectedAnswer):
        await connect(server, timeout_s=10)("rotate", q=q)
    header_ms = [int(request.headers["x-request-timeout-ms"]) for request in server.requests]
    assert header_ms == [10_000, round(10_000 - 250 - time.pauses[0] * 1e3)]
    assert server.requests[0].extensions["timeout"]["read"] == pytest.approx(9.75)


async def test_a_deadline_of_the_call_beats_the_clients(connect, answering):
    server = answering(OK)
    await connect(server, timeout_s=10)("version", timeout_s=0.25)
    assert server.requests[0].headers["x-request-timeout-ms"] == "250"


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
async def test_a_deadline_that_is_none_is_refused(connect, answering, timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        await connect(answering(OK))("version", timeout_s=timeout_s)


async def test_gives_up_at_once_if_the_pause_would_pass_the_deadline(connect, answering, time):
    server = answering(full("30"), OK)
    with pytest.raises(Overloaded) as raised:
        await connect(server, timeout_s=10)("version")
    assert raised.value.retry_after_s == 30
    assert time.pauses == []


@pytest.mark.parametrize(("failure", "error"), [(full("1"), Overloaded), (LOST, ConnectionFailed)])
async def test_never_sleeps_past_the_deadline(connect, answering, time, failure, error):
    began_s = time.now_s
    server = answering(taking(0.1, time, failure))
    with pytest.raises(error) as raised:
        await connect(server, timeout_s=7)("version")
    assert began_s + 7 - RetryPolicy().max_pause_s - 1 < time.now_s < began_s + 7 + 0.1
    assert raised.value.attempts == len(server.requests) == len(time.pauses) + 1
    assert f"attempts {len(server.requests)}" in str(raised.value)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("timeout_s", [1, 2, 7])
@pytest.mark.parametrize("failure", [FULL, LOST])
async def test_tries_until_a_short_deadline(connect, answering, time, timeout_s, chance, failure):
    began_s = time.now_s
    retry = RetryPolicy(uniform=lambda: chance)
    server = answering(taking(0.01, time, failure))
    with pytest.raises((Overloaded, ConnectionFailed)):
        await connect(server, timeout_s=timeout_s, retry=retry)("version")
    assert timeout_s - retry.first_pause_s - 0.01 <= time.now_s - began_s < timeout_s + 0.01
    assert len(time.pauses) < 90


def test_a_policy_without_attempts_is_refused():
    with pytest.raises(ValueError, match="max_attempts must be at least 1, or None, got 0"):
        RetryPolicy(max_attempts=0)


async def test_gives_up_after_the_last_attempt(connect, answering, time):
    server = answering(LOST)
    with pytest.raises(ConnectionFailed):
        await connect(server, retry=RetryPolicy(max_attempts=3))("version")
    assert len(server.requests) == 3
    assert len(time.pauses) == 2


async def test_a_504_is_the_deadline(connect, answering):
    with pytest.raises(TimedOut) as raised:
        await connect(answering(httpx.Response(504, json={"code": "timed_out"})))("version")
    assert raised.value.code == "timed_out"


@given(
    attempts=st.integers(1, 10_000),
    asked_s=st.none() | st.floats(0, 1e6),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_is_bounded_and_never_shorter_than_asked(attempts, asked_s, chance):
    retry = RetryPolicy(uniform=lambda: chance)
    pause_s = retry.pause_s(attempts, asked_s)
    least_s = asked_s or 0.0
    assert least_s <= pause_s <= least_s + retry.max_pause_s
    assert least_s <= retry.pause_s(attempts, asked_s, least_s + 1) <= least_s + 0.5


def test_pauses_grow():
    retry = RetryPolicy(uniform=lambda: 0.5)
    pauses = [retry.pause_s(attempts, None) for attempts in range(1, 9)]
    assert pauses == sorted(pauses)
    assert pauses[1] == 2 * pauses[0]
    assert pauses[-1] == retry.max_pause_s / 2


def test_clients_refused_together_come_back_apart():
    pauses = {RetryPolicy().pause_s(1, 1.0) for _ in range(100)}
    assert len(pauses) > 90
