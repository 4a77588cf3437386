"""Warnings of an answer are Python warnings at the line of the caller, once of each kind."""

import asyncio
import inspect
import warnings

import httpx
import numpy as np
import pytest

from rope_client import AsyncClient, Client, RopeWarning
from rope_client.wire import safetensors_codec
from rope_client.wire.message import Message

Q = np.zeros((1, 2, 1, 2), np.float32)


def answered(*texts):
    content = safetensors_codec.encode(Message({"q": Q}, {"warnings": texts}))
    return httpx.Response(
        200, headers={"content-type": safetensors_codec.MEDIA_TYPE}, content=content
    )


def transport(server):
    # a response of httpx serves one request
    return httpx.MockTransport(server)


def line():
    return inspect.currentframe().f_back.f_lineno


@pytest.fixture
def issued():
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        yield recorded


def test_the_line_of_the_caller_is_shown(issued):
    with Client(transport=transport(lambda _: answered("beware"))) as client:
        answer, called_at = client.rotate(Q), line()
    (warning,) = issued
    assert (str(warning.message), warning.category) == ("beware", RopeWarning)
    assert (warning.filename, warning.lineno) == (__file__, called_at)
    assert answer.warnings == ("beware",)


@pytest.mark.parametrize("run", ["await", "gather", "task"])
async def test_the_line_of_the_caller_of_an_asynchronous_client_is_shown(issued, run):
    async with AsyncClient(transport=transport(lambda _: answered("beware"))) as client:
        call, called_at = client.rotate(Q), line()
        if run == "await":
            await call
        elif run == "gather":
            await asyncio.gather(call)
        else:
            await asyncio.create_task(call)
    (warning,) = issued
    assert (warning.filename, warning.lineno) == (__file__, called_at)


def test_each_kind_is_issued_once_by_a_client(issued):
    texts = [
        ["positions beyond 16777216 are rounded"],
        ["positions beyond 1.5e9 are rounded", "queries count from 0"],
        ["queries count from 0"],
    ]
    sent = iter(texts * 2)
    with Client(transport=transport(lambda _: answered(*next(sent)))) as client:
        answers = [client.rotate(Q).warnings for _ in texts]
    assert [str(warning.message) for warning in issued] == [texts[0][0], texts[2][0]]
    assert answers == [tuple(each) for each in texts]

    with Client(transport=transport(lambda _: answered(*next(sent)))) as client:
        client.rotate(Q)
    assert len(issued) == 3


@pytest.mark.filterwarnings("error::rope_client.RopeWarning")
async def test_a_filter_makes_an_error_of_each_warning(connect):
    ask = connect(lambda _: answered("beware"))
    for _ in range(2):
        with pytest.raises(RopeWarning, match="beware"):
            await ask("rotate", q=Q)


@pytest.mark.filterwarnings("ignore::rope_client.RopeWarning")
async def test_a_filter_can_ignore_them(connect):
    assert (await connect(lambda _: answered("beware"))("rotate", q=Q)).warnings == ("beware",)


async def test_the_catalogue_has_no_warnings(connect, answering, issued):
    ask = connect(answering(httpx.Response(200, json={"warnings": ["not of this call"]})))
    await ask("variants")
    assert issued == []
