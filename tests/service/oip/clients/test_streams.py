"""Streams of gRPC: many requests on one call."""

import pytest
import torch

from tests.core.oracle import randn
from tests.service.oip.clients.expected import check_rotated, rotate
from tests.waiting import wait_until

GRPC_ONLY = pytest.mark.parametrize("kind", ["grpc"], indirect=True)


@pytest.fixture(params=["grpc", "grpc.aio"])
def kind(request):
    pytest.importorskip("tritonclient")
    return request.param


def requests_of(client, numbers):
    """Return tensors, and a request to rotate each."""
    tensors = [randn(1, 1 + n % 9, 4, 64, seed=n) for n in numbers]
    return tensors, [
        client.request("rope", {"q": x}, request_id=f"{n}")
        for n, x in zip(numbers, tensors, strict=True)
    ]


def check_all(answers, tensors):
    for n, (answer, x) in enumerate(zip(answers, tensors, strict=True)):
        assert answer.header["id"] == f"{n}"
        check_rotated(answer["q"], rotate(x), torch.float32)


def test_responses_are_in_the_order_of_requests(client):
    tensors, requests = requests_of(client, range(100))
    check_all(client.stream(requests), tensors)


def test_an_invalid_request_does_not_end_the_stream(client):
    tensors, requests = requests_of(client, range(5))
    requests[1] = client.request("rope", {"q": torch.ones(3)}, request_id="1")
    requests[3] = client.request("nope", {"q": torch.ones(3)}, request_id="3")
    answers = client.stream(requests)
    assert [isinstance(answer, Exception) for answer in answers] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert "nope" in answers[3].message()
    for n in (0, 2, 4):
        assert answers[n].header["id"] == f"{n}"
        check_rotated(answers[n]["q"], rotate(tensors[n]), torch.float32)


def test_an_error_ends_the_stream_on_request(client):
    _, (good,) = requests_of(client, range(1))
    invalid = client.request("nope", {"q": torch.ones(3)}, request_id="1")
    answer, failure = client.stream([good, invalid], headers={"triton_grpc_error": "true"})
    assert answer.header["id"] == "0"
    code = failure.code if client.is_async else failure.status  # grpc.aio raises AioRpcError
    assert str(code()) == "StatusCode.NOT_FOUND"


def test_one_stream_for_several_models(client):
    x = randn(1, 3, 2, 8)
    rotation = client.request("rope", {"q": x}, request_id="a")
    attention = client.request("rope_attention", {"q": x, "k": x, "v": x}, ["lse"], request_id="b")
    tables = client.request(
        "rope_cos_sin", {"positions": torch.arange(3)}, parameters={"head_dim": 8}
    )
    answers = client.stream([rotation, attention, tables])
    assert [[*answer.tensors] for answer in answers] == [["q"], ["lse"], ["cos", "sin"]]
    assert [answer.header["id"] for answer in answers] == ["a", "b", ""]


def test_large_messages(client):
    x = randn(1, 64 * 5, 32, 128)
    for answer in client.stream([client.request("rope", {"q": x})] * 3):
        check_rotated(answer["q"][:, :4], rotate(x[:, :4]), torch.float32)


def test_a_stream_without_requests(client):
    assert client.stream([]) == []


@GRPC_ONLY
@pytest.mark.parametrize("marked", [True, False])
def test_the_final_response_is_marked_on_request(client, marked):
    tensors, requests = requests_of(client, range(4))
    answers = client.stream(requests, enable_empty_final_response=marked)
    check_all(answers, tensors)
    for answer in answers:
        assert answer.header["parameters"].get("triton_final_response", False) is marked


@GRPC_ONLY
def test_a_client_cancels_a_stream_whose_requests_wait(client, target, busy):
    results = []
    client.start_stream(lambda result, error: results.append(error or result))
    for request in requests_of(client, range(20))[1]:
        client.async_stream_infer(**request)
    wait_until(lambda: target.metric("nv_inference_pending_request_count", model="rope") > 0)
    client.stop_stream(cancel_requests=True)
    assert results[-1].status() == "StatusCode.CANCELLED"
    tensors, requests = requests_of(client, range(3))
    check_all(client.stream(requests), tensors)


@GRPC_ONLY
def test_a_stream_with_a_deadline(client, busy):
    results = []
    client.start_stream(lambda result, error: results.append(error or result), stream_timeout=0.1)
    for request in requests_of(client, range(3))[1]:
        client.async_stream_infer(**request)
    client.stop_stream()
    assert results
    assert all(isinstance(result, Exception) for result in results)
    if len(results) < 3:  # otherwise the service, which knows the deadline, answered first
        assert results[-1].status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.is_server_live()


async def test_an_async_client_cancels_a_stream(target, busy):
    aio = pytest.importorskip("tritonclient.grpc.aio")
    async with aio.InferenceServerClient(target.grpc) as client:
        x = aio.InferInput("q", [1, 3, 2, 8], "FP32")
        x.set_data_from_numpy(torch.ones(1, 3, 2, 8).numpy())

        async def endless():
            while True:
                yield {"model_name": "rope", "inputs": [x]}

        stream = client.stream_infer(endless())
        assert stream.cancel()
        assert await client.is_server_live()


@GRPC_ONLY
def test_a_client_opens_several_streams_one_after_another(client):
    for n in range(3):
        tensors, requests = requests_of(client, range(n + 1))
        check_all(client.stream(requests), tensors)
