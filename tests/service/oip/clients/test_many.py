"""Many requests at once, large ones, and ones that their clients cancel."""

import pytest
import torch

from rope_core import RopeConfig
from tests.core.oracle import off, qkv, randn
from tests.service.oip.clients.expected import (
    DTYPES,
    attend,
    check_attended,
    check_rotated,
    rotate,
)
from tests.waiting import wait_until

# aiohttp warns of bodies over 1 MiB that it gets as bytes, as tritonclient passes them
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


def numbered_request(client, n):
    """Return a request that differs from those of other numbers, and a check of its response."""
    dtype, length = DTYPES[n % 3], 1 + n % 7
    positions = torch.arange(length) + 1000 * n
    request_id = f"request {n}"
    if n % 4 == 0:
        q, k, v = qkv((1, length, 4, 8), (1, length, 2, 8), dtype=dtype, seed=100 + n)
        inputs = {"q": q, "k": k, "v": v, "positions": positions}
        out, _ = attend(q, k, v, positions=(positions, positions))
        request = client.request("rope_attention", inputs, request_id=request_id)
        return request, lambda answer: check_attended(answer["out"], out, dtype)
    layout = ("half", "interleaved")[n % 2]
    x = randn(1 + n % 2, length, 4 + n % 3, 64, dtype=dtype, seed=n)
    inputs, parameters = {"q": x, "positions": positions}, {"layout": layout, "theta": 1000.0 + n}
    rope = RopeConfig.of(64, layout=layout, theta=1000.0 + n)
    request = client.request("rope", inputs, parameters=parameters, request_id=request_id)
    expected = rotate(x, positions, rope)
    return request, lambda answer: check_rotated(answer["q"], expected, dtype)


def check_requests(client, numbers):
    requests, checks = zip(*(numbered_request(client, n) for n in numbers), strict=True)
    answers = client.infer_all(requests)
    assert [answer.header["id"] for answer in answers] == [f"request {n}" for n in numbers]
    for answer, check in zip(answers, checks, strict=True):
        check(answer)


def test_many_different_requests_at_once(client):
    check_requests(client, range(64))


def test_requests_that_are_cancelled_in_the_queue_do_not_run(client, target, busy):
    def counts():
        (statistics,) = client.get_inference_statistics("rope")["model_stats"]
        cancelled = target.metric("nv_inference_request_failure", model="rope", reason="CANCELED")
        return statistics["inference_stats"]["success"]["count"], cancelled

    def is_queued():
        return target.metric("nv_inference_pending_request_count", model="rope") > 0

    succeeded, cancelled = counts()
    x = randn(1, 50, 4, 64)
    for _ in range(3):
        client.cancel(client.request("rope", {"q": x}), is_queued)
    check_rotated(client.infer("rope", {"q": x})["q"], rotate(x), torch.float32)
    wait_until(lambda: counts()[1] >= cancelled + 3)
    assert counts() == (succeeded + 1, cancelled + 3)
    check_requests(client, range(8))


def test_a_request_times_out_in_the_queue(client, refused, busy):
    x = randn(1, 50, 4, 64)
    with refused("503", "time"):
        client.infer("rope", {"q": x}, timeout=20_000)  # microseconds
    answer = client.infer("rope", {"q": x}, timeout=60_000_000)
    check_rotated(answer["q"], rotate(x), torch.float32)


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"], indirect=True)
def test_deadlines_of_grpc(client, busy):
    """A call that would be answered too late is refused at once, or at its deadline."""
    x = randn(1, 50, 4, 64)
    with pytest.raises(Exception, match=r"(?i)deadline") as failure:
        client.infer("rope", {"q": x}, client_timeout=0.05)
    statuses = ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
    assert failure.value.status() in statuses
    answer = client.infer("rope", {"q": x}, client_timeout=30)
    check_rotated(answer["q"], rotate(x), torch.float32)
    assert client.is_server_live(client_timeout=5)


@pytest.mark.parametrize("mebibytes", [5, 65])
def test_large_tensors(client, mebibytes):
    """More than gRPC libraries receive by default, and more than Triton accepts as JSON."""
    x = randn(1, 64 * mebibytes, 32, 128, dtype=torch.float32)
    rotated = client.infer("rope", {"q": x})["q"]
    assert rotated.shape == x.shape
    samples = torch.tensor([0, 1, x.shape[1] // 2, x.shape[1] - 1])
    assert off(rotated[:, samples], rotate(x[:, samples], samples)) <= 1e-7
    assert off(rotated.norm(), x.norm()) <= 1e-6


def test_a_body_above_the_limit_is_refused(connect, shared_memory_target, refused):
    client = connect(shared_memory_target)
    with refused("413"):
        client.infer("rope", {"q": torch.zeros(1, 1024, 8, 64)})
    assert client.is_server_live()
