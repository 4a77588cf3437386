"""Statistics and metrics of the models: each request counts once."""

import asyncio
import time

import pytest
import torch

from service.batching.run import Completed
from service.errors import ClientLeft, DeviceLost, Expired, Overloaded
from service.oip.statistics import REASONS, Statistics
from tests.service.oip.encodings import InferCall, Refused, all_encodings

ONE = torch.ones(1, 1, 1, 2)
ROPE = InferCall("rope", {"q": ONE, "k": ONE})
STEPS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
async def encodings():
    async with all_encodings() as encodings:
        yield encodings


async def stats(encodings, model="rope"):
    """Return the statistics of a model, over HTTP."""
    response = await encodings["json"]._client.get(f"/v2/models/{model}/stats")
    return response.json()["model_stats"][0]


async def test_each_answered_request_counts_once_in_each_encoding(encodings):
    before = await stats(encodings)
    assert before["last_inference"] == before["inference_count"] == 0
    for count, form in enumerate(encodings.values(), start=1):
        await form.infer(ROPE)
        after = await stats(encodings)
        assert after["inference_count"] == after["execution_count"] == count
        for step in STEPS:
            assert after["inference_stats"][step]["count"] == count
            assert after["inference_stats"][step]["ns"] > 0
    assert after["last_inference"] > 1.7e12
    assert [batch["batch_size"] for batch in after["batch_stats"]] == [1]
    assert (await stats(encodings, "rope_attention"))["inference_count"] == 0


async def test_each_refused_request_counts_as_a_failure(encodings):
    for count, form in enumerate(encodings.values(), start=1):
        with pytest.raises(Refused):
            await form.infer(InferCall("rope", {"q": ONE}, {"theta": 0}))
        after = await stats(encodings)
        assert after["inference_stats"]["fail"]["count"] == 2 * count - 1
        assert after["inference_count"] == 0
        with pytest.raises(Refused):
            await form.infer(InferCall("rope", {"q": ONE}, id="a" * 257))
    with pytest.raises(Refused):
        await form.infer(InferCall("nope", {"q": ONE}))
    models = (await encodings["json"]._client.get("/v2/models/stats")).json()["model_stats"]
    assert sum(model["inference_stats"]["fail"]["count"] for model in models) == 8


async def test_the_metrics_of_triton(encodings):
    await encodings["raw"].infer(ROPE)
    with pytest.raises(Refused):
        await encodings["raw"].infer(InferCall("rope", {"q": ONE}, {"theta": 0}))
    page = (await encodings["json"]._client.get("/metrics")).text
    of = 'model="rope",version="1"'
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    for name in ("request_success", "count", "exec_count"):
        assert lines[f"nv_inference_{name}{{{of}}}"] == "1.0"
    for name in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert float(lines[f"nv_inference_{name}_duration_us{{{of}}}"]) >= 0
    assert lines[f"nv_inference_pending_request_count{{{of}}}"] == "0.0"
    of = 'model="rope",reason="%s",version="1"'
    failed = {r: lines[f"nv_inference_request_failure{{{of % r}}}"] for r in REASONS}
    assert failed == {"REJECTED": "0.0", "CANCELED": "0.0", "BACKEND": "0.0", "OTHER": "1.0"}


def counts(statistics: Statistics) -> dict[str, int]:
    return {reason: count for reason, count in statistics.num_failed.items() if count}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Overloaded("full"), "REJECTED"),
        (Expired(), "REJECTED"),
        (ClientLeft(), "CANCELED"),
        (asyncio.CancelledError(), "CANCELED"),
        (DeviceLost(), "BACKEND"),
        (ValueError("x"), "OTHER"),
    ],
    ids=repr,
)
def test_a_failure_is_raised_and_counted_by_its_reason(failure, reason):
    statistics = Statistics("m", lambda: 0)
    with pytest.raises(type(failure)), statistics.count():
        raise failure
    assert counts(statistics) == {reason: 1}
    assert statistics.num_answered == 0


def test_a_request_that_is_cancelled_after_its_deadline_timed_out():
    statistics = Statistics("m", lambda: 0)
    for deadline in (time.monotonic() - 1, time.monotonic() + 60):
        with pytest.raises(asyncio.CancelledError), statistics.count(deadline):
            raise asyncio.CancelledError
    assert counts(statistics) == {"OTHER": 1, "CANCELED": 1}


def test_an_answered_request_counts_once():
    statistics = Statistics("m", lambda: 0)
    with statistics.count() as started:
        statistics.add_success(Completed(None, 0.1, 0.2, 0.3, 1), started, started)
    assert (statistics.num_answered, counts(statistics)) == (1, {})


def test_counts_of_runs_are_integers_that_never_fall():
    statistics = Statistics("m", lambda: 0)
    seen: list[dict[int, tuple[int, int]]] = [{}]
    for index, size in enumerate([3, 3, 3, 1, 2, 3, 2, 3]):
        statistics.add_success(Completed(None, 0.0, 0.1 / (index + 1), 0.2, size), 0.0, 0.3)
        described = statistics.describe()
        sizes = {
            batch["batch_size"]: (batch["compute_input"]["count"], batch["compute_input"]["ns"])
            for batch in described["batch_stats"]
        }
        for size, numbers in seen[-1].items():
            assert all(a <= b for a, b in zip(numbers, sizes[size], strict=True))
        assert described["execution_count"] == sum(count for count, _ in sizes.values())
        seen.append(sizes)
    assert {size: count for size, (count, _) in sizes.items()} == {1: 1, 2: 1, 3: 2}
