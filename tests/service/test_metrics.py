"""What Prometheus reads."""

import math
import shutil
import subprocess

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.observability.histogram import Histogram
from service.wire import Message
from service.wire import safetensors_codec as codec
from tests.service.conftest import post
from tests.service.test_routes import heads


async def scrape(client) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


async def test_requests_batches_and_times_are_counted(client):
    for _ in range(3):
        await post(client, codec, "/v1/rotate", Message({"q": heads(2)}))
    await post(client, codec, "/v1/rotate", Message({}))
    await client.get("/no/such/path")
    await client.get("/another")

    seen = await scrape(client)

    assert seen['rope_requests_total{route="/v1/rotate",status="200"}'] == 3
    assert seen['rope_requests_total{route="/v1/rotate",status="422"}'] == 1
    assert seen['rope_requests_total{route="other",status="404"}'] == 2
    assert seen['rope_request_duration_seconds_count{route="/v1/rotate"}'] == 4
    for name in ("queue_wait_seconds", "copy_seconds", "compute_seconds", "batch_requests"):
        assert seen[f"rope_{name}_count"] == 3
    assert seen["rope_batch_tokens_sum"] == 30
    assert 0 < seen["rope_compute_seconds_sum"] < 10
    assert seen['rope_compute_seconds_bucket{le="0.0001"}'] >= 0, "buckets below a millisecond"
    assert seen["rope_queue_depth"] == seen["rope_queued_bytes"] == 0
    assert seen["rope_admitted_bytes"] == 0
    assert seen["rope_device_memory_bytes"] > 0
    assert any(name.startswith("rope_build_info{") for name in seen)


async def test_ready_is_a_gauge(client, lifecycle):
    lifecycle.warmed_up()
    assert (await scrape(client))["rope_ready"] == 1
    lifecycle.drain()
    assert (await scrape(client))["rope_ready"] == 0


async def test_no_client_invents_a_series(client):
    before = len(await scrape(client))
    for i in range(50):
        await client.get(f"/invented/{i}")
        await client.request(f"METHOD{i}", "/v1/rotate")
    # the histograms of three routes: other, /v1/rotate and /metrics, whatever was asked
    assert len(await scrape(client)) - before < 100


# Dashboards of Triton read these names, so they are kept against the rules of Prometheus
STEPS = ("request", "queue", "compute_input", "compute_infer", "compute_output")
KEPT = {
    f"nv_inference_{step}_duration_us metric names should not contain abbreviated units"
    for step in STEPS
} | {
    f'nv_inference_{name} non-histogram and non-summary metrics should not have "_count" suffix'
    for name in ("count", "exec_count", "pending_request_count")
}


async def test_promtool_finds_fault_with_the_names_of_triton_alone(client):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    await post(client, codec, "/v1/rotate", Message({"q": heads(2)}))
    text = (await client.get("/metrics")).content
    checked = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    faults = set(checked.stderr.decode().splitlines())
    assert faults <= KEPT
    assert (checked.returncode, checked.stdout) == (3 if faults else 0, b"")


@pytest.mark.parametrize("label", [None, "route"])
def test_a_histogram_tells_the_same_as_that_of_prometheus_client(label):
    bounds = 1e-5, 0.5, 2.0, 3e7
    values = [*bounds, -1.0, 0.0, 3e-5, 3e-5, 0.7, 1e9, math.inf]
    told = []
    for cls in (Histogram, prometheus_client.Histogram):
        registry = CollectorRegistry()
        labels = () if label is None else (label,)
        histogram = cls("some_seconds", "Some.", labels, buckets=bounds, registry=registry)
        child = histogram if label is None else histogram.labels("some")
        none = generate_latest(registry)
        if cls is Histogram:
            child.observe_all(values[:4])
            child.observe_all([])
        for value in values[4 * (cls is Histogram) :]:
            child.observe(value)
        told.append((none, generate_latest(registry)))
    assert told[0] == told[1]
    assert b"some_seconds_count" in told[0][1]
