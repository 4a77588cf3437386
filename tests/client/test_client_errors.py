"""Whatever goes wrong is one of five errors, and says what the service said."""

import httpx
import pytest

from rope_client import (
    BadRequest,
    ConnectionFailed,
    Overloaded,
    RetryPolicy,
    RopeClientError,
    TimedOut,
    UnexpectedAnswer,
    errors,
)
from rope_client.transport import Address, failure_of

ONCE = RetryPolicy(max_attempts=1)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, BadRequest) for status in (400, 401, 403, 404, 405, 406, 413, 415, 422)),
        (429, Overloaded),
        (503, Overloaded),
        (504, TimedOut),
        *((status, UnexpectedAnswer) for status in (204, 301, 500, 502)),
    ],
)
async def test_an_error_says_what_the_service_said(connect, answering, status, error):
    problem = {"code": "some_code", "detail": "k must be ...", "status": status}
    headers = {"x-request-id": "theirs", "content-type": "application/problem+json"}
    ask = connect(answering(httpx.Response(status, json=problem, headers=headers)), retry=ONCE)
    with pytest.raises(error) as raised:
        await ask("rotate", q=[1.0])

    failure = raised.value
    assert type(failure) is error
    assert (failure.status, failure.code, failure.detail) == (status, "some_code", "k must be ...")
    assert failure.request_id == "theirs"
    assert str(failure) == f"k must be ... (status {status}, code some_code, request theirs)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b'{"detail": [1], "code": 7}'])
async def test_an_error_of_a_proxy_has_no_code(connect, answering, body):
    ask = connect(answering(httpx.Response(404, content=body)))
    with pytest.raises(BadRequest, match="answered 404") as raised:
        await ask("rotate", q=[1.0], request_id="ours")
    assert raised.value.code is None
    assert raised.value.request_id == "ours"


@pytest.mark.parametrize("content_type", ["application/json", "application/x-safetensors", "x/y"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"q": {"data": 1}}',
        b"\xff" * 16,
        b"\x02" + b"\0" * 7 + b"{}",
    ],
)
async def test_an_answer_that_is_none_is_told_apart(connect, answering, content_type, body):
    headers = {"content-type": content_type}
    ask = connect(answering(httpx.Response(200, content=body, headers=headers)))
    with pytest.raises(UnexpectedAnswer) as raised:
        await ask("shift", k=[1.0], delta=1)
    assert raised.value.status == 200
    assert raised.value.__cause__ is not None


async def test_an_answer_without_tensors_is_no_rotation(connect, answering):
    ask = connect(answering(httpx.Response(200, json={"status": "alive"})))
    with pytest.raises(UnexpectedAnswer, match="q or k"):
        await ask("rotate", q=[1.0])


async def test_an_answer_without_a_type_is_told_apart(connect, answering):
    with pytest.raises(UnexpectedAnswer):
        await connect(answering(httpx.Response(200)))("version")


def every(error):
    return [error, *(below for each in error.__subclasses__() for below in every(each))]


@pytest.mark.parametrize("theirs", every(httpx.RequestError))
async def test_every_error_of_httpx_becomes_ours(connect, answering, theirs):
    ask = connect(answering(theirs("broke")), retry=ONCE)
    with pytest.raises(RopeClientError, match=f"{theirs.__name__}: broke") as raised:
        await ask("rotate", q=[1.0], request_id="ours")
    assert isinstance(raised.value.__cause__, theirs)
    assert (raised.value.status, raised.value.request_id) == (None, "ours")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (httpx.ReadTimeout, TimedOut),
        (httpx.ConnectError, ConnectionFailed),
        (httpx.RemoteProtocolError, ConnectionFailed),
        (httpx.DecodingError, UnexpectedAnswer),
    ],
)
def test_the_nearest_error_is_chosen(theirs, ours):
    assert type(failure_of(theirs("broke"), Address.of("http://rope"))) is ours


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, of_session = set(), set()
    for line in errors.__doc__.splitlines():
        _, sign, text = line.partition("+-")
        if sign:
            (of_session if line.startswith("  |  ") else drawn).add(text.split()[0])
    assert drawn == {error.__name__ for error in RopeClientError.__subclasses__()}
    assert of_session == {error.__name__ for error in BadRequest.__subclasses__()}
