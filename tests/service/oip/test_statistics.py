"""Statistics and metrics of the models: they grow by what was asked, and by nothing else."""

import asyncio

import pytest
import torch

from service.batching.batcher import Completed
from service.errors import ClientLeft, DeviceLost, Expired, Overloaded
from service.oip.statistics import REASONS, Statistics
from tests.service.oip.encodings import PreparedCall, Refused, speaking

ONE = torch.ones(1, 1, 1, 2)
ROPE = PreparedCall("rope", {"x": ONE})
STEPS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
async def spoken():
    async with speaking() as spoken:
        yield spoken


async def stats(spoken, model="rope"):
    """Return the statistics of a model, over HTTP."""
    response = await spoken["json"]._client.get(f"/v2/models/{model}/stats")
    return response.json()["model_stats"][0]


async def test_each_good_request_counts_once_in_whatever_form(spoken):
    before = await stats(spoken)
    assert before["last_inference"] == before["inference_count"] == 0
    for count, form in enumerate(spoken.values(), start=1):
        await form.infer(ROPE)
        after = await stats(spoken)
        assert after["inference_count"] == after["execution_count"] == count
        for step in STEPS:
            assert after["inference_stats"][step]["count"] == count
            assert after["inference_stats"][step]["ns"] > 0
    assert after["last_inference"] > 1.7e12
    assert [each["batch_size"] for each in after["batch_stats"]] == [1]
    assert (await stats(spoken, "rope_attention"))["inference_count"] == 0


async def test_each_bad_request_counts_as_a_failure(spoken):
    for count, form in enumerate(spoken.values(), start=1):
        with pytest.raises(Refused):
            await form.infer(PreparedCall("rope", {"x": ONE}, {"theta": 0}))
        told = await stats(spoken)
        assert told["inference_stats"]["fail"]["count"] == count
        assert told["inference_count"] == 0
    with pytest.raises(Refused):
        await form.infer(PreparedCall("nope", {"x": ONE}))
    every = (await spoken["json"]._client.get("/v2/models/stats")).json()["model_stats"]
    assert sum(each["inference_stats"]["fail"]["count"] for each in every) == 4


async def test_lines_that_dashboards_of_triton_read(spoken):
    await spoken["raw"].infer(ROPE)
    with pytest.raises(Refused):
        await spoken["raw"].infer(PreparedCall("rope", {"x": ONE}, {"theta": 0}))
    page = (await spoken["json"]._client.get("/metrics")).text
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


async def test_who_leaves_over_grpc_counts_as_cancelled(spoken):
    big = torch.ones(1, 256, 8, 8)
    asked = PreparedCall("rope_attention", dict.fromkeys("qkv", big), {"causal": False})
    calls = [asyncio.create_task(spoken["raw"].infer(asked)) for _ in range(8)]
    await asyncio.sleep(0.005)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await spoken["raw"].infer(ROPE)
    told = (await stats(spoken, "rope_attention"))["inference_stats"]
    assert told["success"]["count"] + told["fail"]["count"] <= 8


def test_reasons_of_failures():
    statistics = Statistics("m", lambda: 0)
    for failure in (Overloaded("full"), Expired(), ClientLeft(), DeviceLost(), ValueError("x")):
        statistics.add_failure(failure, 0.0)
    assert dict(statistics.num_failed) == {"REJECTED": 2, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}


def test_counts_of_runs_are_whole_and_no_number_ever_falls():
    statistics = Statistics("m", lambda: 0)
    seen: list[dict[int, tuple[int, int]]] = [{}]
    for index, size in enumerate([3, 3, 3, 1, 2, 3, 2, 3]):
        statistics.add_success(Completed(None, 0.0, 0.1 / (index + 1), 0.2, size), 0.0, 0.3)
        told = statistics.describe()
        sizes = {
            each["batch_size"]: (each["compute_input"]["count"], each["compute_input"]["ns"])
            for each in told["batch_stats"]
        }
        for size, numbers in seen[-1].items():
            assert all(a <= b for a, b in zip(numbers, sizes[size], strict=True))
        assert told["execution_count"] == sum(count for count, _ in sizes.values())
        seen.append(sizes)
    assert {size: count for size, (count, _) in sizes.items()} == {1: 1, 2: 1, 3: 2}
