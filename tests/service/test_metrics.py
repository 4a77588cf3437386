"""What Prometheus reads."""

import math
import shutil
import subprocess
import time

import httpx
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.device import cgroup
from service.observability.histogram import Histogram
from service.server.connection_limits import default_max_connections
from service.settings import Settings
from service.wire import Message
from service.wire import safetensors_codec as codec
from tests.conftest import Started
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


async def test_a_level_has_its_limit_beside_it(client):
    seen = await scrape(client)
    settings = Settings()
    assert seen["rope_queue_limit"] == settings.max_queue_calls
    assert seen["rope_predicted_wait_limit_seconds"] == settings.max_queue_s
    assert 0 < seen["rope_device_memory_bytes"] < seen["rope_device_memory_limit_bytes"]
    assert seen["rope_kernel_builds_limit"] > seen["rope_kernel_builds_waiting"] == 0
    budget = min(cgroup.memory_bytes() // 4, 4 * 2**30)
    assert seen["rope_admission_limit_bytes"] == budget > seen["rope_admitted_bytes"]


def test_the_limit_of_connections_and_metrics_of_the_process(server: Started):
    before = time.time()
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    seen = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    seen = {name: float(value) for name, value in seen.items()}
    assert seen["rope_connections_limit"] == default_max_connections()
    assert 1 <= seen["rope_connections"] < seen["rope_connections_limit"]
    assert 2**24 < seen["process_resident_memory_bytes"] < 2**40
    assert seen["process_cpu_seconds_total"] > 0.1
    assert 3 < seen["process_open_fds"] < seen["process_max_fds"]
    assert before - 86_400 < seen["process_start_time_seconds"] <= before + 1


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
