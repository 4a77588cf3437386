"""Streams of gRPC: many requests on one call."""

import time

import pytest
import torch

from tests.core.oracle import randn
from tests.service.oip.clients.expected import check_rotated, turned

SYNC = pytest.mark.parametrize("kind", ["grpc"], indirect=True)


@pytest.fixture(params=["grpc", "grpc.aio"])
def kind(request):
    pytest.importorskip("tritonclient")
    return request.param


def asks(client, numbers):
    tensors = [randn(1, 1 + n % 9, 4, 64, seed=n) for n in numbers]
    return tensors, [
        client.ask("rope", {"x": x}, request_id=f"{n}")
        for n, x in zip(numbers, tensors, strict=True)
    ]


def check_all(answers, tensors):
    for n, (answer, x) in enumerate(zip(answers, tensors, strict=True)):
        assert answer.head["id"] == f"{n}"
        check_rotated(answer["rotated"], turned(x), torch.float32)


def test_answers_come_in_the_order_of_requests(client):
    tensors, given = asks(client, range(100))
    check_all(client.stream(given), tensors)


def test_one_wrong_request_does_not_end_the_stream(client):
    tensors, given = asks(client, range(5))
    given[1] = client.ask("rope", {"x": torch.ones(3)}, request_id="1")
    given[3] = client.ask("nope", {"x": torch.ones(3)}, request_id="3")
    answers = client.stream(given)
    assert [isinstance(each, Exception) for each in answers] == [False, True, False, True, False]
    assert "nope" in answers[3].message()
    for n in (0, 2, 4):
        assert answers[n].head["id"] == f"{n}"
        check_rotated(answers[n]["rotated"], turned(tensors[n]), torch.float32)


def test_an_error_ends_the_stream_for_those_who_want_so(client):
    _, (good,) = asks(client, range(1))
    wrong = client.ask("nope", {"x": torch.ones(3)}, request_id="1")
    answer, failure = client.stream([good, wrong], headers={"triton_grpc_error": "true"})
    assert answer.head["id"] == "0"
    code = failure.code if client.is_async else failure.status  # the one of asyncio is gRPC's own
    assert str(code()) == "StatusCode.NOT_FOUND"


def test_models_may_be_mixed(client):
    x = randn(1, 3, 2, 8)
    one = client.ask("rope", {"x": x}, request_id="a")
    two = client.ask("rope_attention", {"q": x, "k": x, "v": x}, ["lse"], request_id="b")
    three = client.ask("rope_cos_sin", {"positions": torch.arange(3)}, parameters={"head_dim": 8})
    answers = client.stream([one, two, three])
    assert [[*answer.tensors] for answer in answers] == [["rotated"], ["lse"], ["cos", "sin"]]
    assert [answer.head["id"] for answer in answers] == ["a", "b", ""]


def test_large_messages(client):
    x = randn(1, 64 * 5, 32, 128)
    for answer in client.stream([client.ask("rope", {"x": x})] * 3):
        check_rotated(answer["rotated"][:, :4], turned(x[:, :4]), torch.float32)


def test_a_stream_of_nothing(client):
    assert client.stream([]) == []


@SYNC
@pytest.mark.parametrize("wanted", [True, False])
def test_the_last_answer_is_marked_where_that_is_asked_for(client, wanted):
    tensors, given = asks(client, range(4))
    answers = client.stream(given, enable_empty_final_response=wanted)
    check_all(answers, tensors)
    for answer in answers:
        assert answer.head["parameters"].get("triton_final_response", False) is wanted


@SYNC
def test_a_stream_that_is_given_up(client, busy):
    """Its requests wait for a device at work, and nobody waits for them any more."""
    found = []
    client.start_stream(lambda result, error: found.append(error or result))
    for ask in asks(client, range(20))[1]:
        client.async_stream_infer(**ask)
    time.sleep(0.1)
    client.stop_stream(cancel_requests=True)
    assert found[-1].status() == "StatusCode.CANCELLED"
    tensors, given = asks(client, range(3))
    check_all(client.stream(given), tensors)


@SYNC
def test_a_stream_with_an_end_of_time(client, busy):
    found = []
    client.start_stream(lambda result, error: found.append(error or result), stream_timeout=0.1)
    for ask in asks(client, range(3))[1]:
        client.async_stream_infer(**ask)
    client.stop_stream()
    assert all(isinstance(each, Exception) for each in found)
    if len(found) < 3:  # else the service, which knows the deadline, has been first to tell
        assert found[-1].status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.is_server_live()


async def test_a_stream_that_an_async_client_gives_up(target, busy):
    aio = pytest.importorskip("tritonclient.grpc.aio")
    async with aio.InferenceServerClient(target.grpc) as client:
        x = aio.InferInput("x", [1, 3, 2, 8], "FP32")
        x.set_data_from_numpy(torch.ones(1, 3, 2, 8).numpy())

        async def given():
            while True:
                yield {"model_name": "rope", "inputs": [x]}

        stream = client.stream_infer(given())
        assert stream.cancel()
        assert await client.is_server_live()


@SYNC
def test_a_client_has_one_stream_at_a_time_and_many_one_after_another(client):
    for n in range(3):
        tensors, given = asks(client, range(n + 1))
        check_all(client.stream(given), tensors)
