"""Many requests at once, large ones, and ones whose clients go away."""

import time

import pytest
import torch

from rope_core import RopeConfig
from tests.core.oracle import off, qkv, randn
from tests.service.oip.clients.expected import (
    DTYPES,
    attended,
    check_attended,
    check_rotated,
    turned,
)

# aiohttp's, of bodies over 1 MiB, which tritonclient gives it as bytes
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


def question(client, n):
    """Return the n-th of as many different requests as one likes, and a check of its answer."""
    dtype, length = DTYPES[n % 3], 1 + n % 7
    places = torch.arange(length) + 1000 * n
    more = {"request_id": f"request {n}"}
    if n % 4 == 0:
        q, k, v = qkv((1, length, 4, 8), (1, length, 2, 8), dtype=dtype, seed=100 + n)
        inputs = {"q": q, "k": k, "v": v, "positions": places}
        return client.ask("rope_attention", inputs, **more), lambda answer: check_attended(
            answer["output"], attended(q, k, v, places=(places, places))[0], dtype
        )
    layout = ("half", "interleaved")[n % 2]
    x = randn(1 + n % 2, length, 4 + n % 3, 64, dtype=dtype, seed=n)
    inputs, parameters = {"x": x, "positions": places}, {"layout": layout, "theta": 1000.0 + n}
    rope = RopeConfig.of(64, layout=layout, theta=1000.0 + n)
    ask = client.ask("rope", inputs, parameters=parameters, **more)
    return ask, lambda answer: check_rotated(answer["rotated"], turned(x, places, rope), dtype)


def check_each(client, numbers):
    asks, checks = zip(*(question(client, n) for n in numbers), strict=True)
    answers = client.together(asks)
    assert [answer.head["id"] for answer in answers] == [f"request {n}" for n in numbers]
    for answer, check in zip(answers, checks, strict=True):
        check(answer)


def test_many_different_requests_at_once(client):
    check_each(client, range(64))


def test_clients_that_leave(client, target, busy):
    """They leave while their requests wait: those are not computed, and others are answered."""

    def counted():
        (told,) = client.get_inference_statistics("rope")["model_stats"]
        cancelled = target.metric("nv_inference_request_failure", model="rope", reason="CANCELED")
        return told["inference_stats"]["success"]["count"], cancelled

    def waits():
        return target.metric("nv_inference_pending_request_count", model="rope") > 0

    good, gone = counted()
    x = randn(1, 50, 4, 64)
    for _ in range(3):
        client.leave(client.ask("rope", {"x": x}), waits)
    check_rotated(client.infer("rope", {"x": x})["rotated"], turned(x), torch.float32)
    abort_pending = time.monotonic() + 5
    while counted()[1] < gone + 3 and time.monotonic() < abort_pending:
        time.sleep(0.05)
    assert counted() == (good + 1, gone + 3)
    check_each(client, range(8))


def test_a_time_in_the_queue_that_is_too_long(client, refused, busy):
    x = randn(1, 50, 4, 64)
    with refused("503", "time"):
        client.infer("rope", {"x": x}, timeout=20_000)  # microseconds
    answer = client.infer("rope", {"x": x}, timeout=60_000_000)
    check_rotated(answer["rotated"], turned(x), torch.float32)


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"], indirect=True)
def test_deadlines_of_grpc(client, busy):
    x = randn(1, 50, 4, 64)
    with pytest.raises(Exception, match=r"(?i)deadline") as failure:
        client.infer("rope", {"x": x}, client_timeout=0.05)
    assert failure.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    answer = client.infer("rope", {"x": x}, client_timeout=30)
    check_rotated(answer["rotated"], turned(x), torch.float32)
    assert client.is_server_live(client_timeout=5)


@pytest.mark.parametrize("mebibytes", [5, 65])
def test_large_tensors(client, mebibytes):
    """Beyond what libraries of gRPC take by default, and beyond what Triton takes in JSON."""
    x = randn(1, 64 * mebibytes, 32, 128, dtype=torch.float32)
    rotated = client.infer("rope", {"x": x})["rotated"]
    assert rotated.shape == x.shape
    places = torch.tensor([0, 1, x.shape[1] // 2, x.shape[1] - 1])
    assert off(rotated[:, places], turned(x[:, places], places)) <= 1e-7
    assert off(rotated.norm(), x.norm()) <= 1e-6


def test_larger_than_the_service_takes(connect, other, refused):
    client = connect(other)
    with refused("413"):
        client.infer("rope", {"x": torch.zeros(1, 1024, 8, 64)})
    assert client.is_server_live()
