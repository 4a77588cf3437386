"""The rows of the last seconds: `GET /v1/recent`."""

import asyncio
import json
import tracemalloc
from typing import Any

import httpx
import pytest

from service.lifecycle import Lifecycle
from service.observability.recent import (
    BOUNDS,
    COLUMNS,
    MAX_BYTES,
    NUM_BUCKETS,
    SECONDS,
    Gauges,
    Recent,
)
from service.server.app import create_app
from service.settings import Settings
from tests.clock import Clock
from tests.service.outside import Outside, whole_service
from tests.service.test_calls_per_request import Profile

NOW = 1_764_446_400.25


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


@pytest.fixture
def recent(clock: Clock) -> Recent:
    return Recent(clock, lambda: NOW)


def rows_of(recent: Recent, after: int = 0) -> list[dict[str, Any]]:
    texts = recent.rows_after(after)
    return [dict(zip(COLUMNS, json.loads(text), strict=True)) for text in texts]


def test_a_second_is_there_once_it_is_over(recent, clock):
    recent.refuse("overloaded", 503)
    assert rows_of(recent) == []
    clock.now += 1
    (row,) = rows_of(recent)
    assert row["second"] == int(NOW) == recent.until
    assert row["refusals"] == [["overloaded", 503, 1]]
    assert rows_of(recent, int(NOW)) == []


def test_seconds_without_events_have_no_rows_and_the_answer_says_how_far_it_goes(recent, clock):
    clock.now += 30
    assert rows_of(recent) == []
    assert (recent.oldest, recent.until) == (int(NOW), int(NOW) + 29)
    recent.refuse("shape", 422)
    clock.now += 1
    assert [row["second"] for row in rows_of(recent)] == [int(NOW) + 30]
    clock.now += SECONDS + 1
    assert rows_of(recent) == []
    assert recent.oldest == recent.until + 1 - SECONDS


def test_a_long_run_is_busy_in_each_of_its_seconds(recent, clock):
    recent.running.append(clock.now)
    clock.now += 3.0
    recent.advance(clock.now)
    recent.running.clear()
    recent.current.busy_s += clock.now - recent.begin
    clock.now += 1
    assert [row["busy_s"] for row in rows_of(recent)] == [0.75, 1.0, 1.0, 0.25]


def test_a_full_queue_stays_in_sight_while_nothing_happens(recent, clock):
    recent.queue_depth = lambda: 6
    recent.current.depth = 6
    clock.now += 3
    assert [row["depth"] for row in rows_of(recent)] == [6, 6, 6]


def test_a_clock_that_is_set_back_moves_nothing(clock):
    wall = [NOW]
    recent = Recent(clock, lambda: wall[0])
    wall[0] -= 3600
    recent.refuse("shape", 422)
    clock.now += 1
    assert [row["second"] for row in rows_of(recent)] == [int(NOW)]


def test_the_memory_is_below_a_mebibyte_however_much_happens(clock):
    tracemalloc.start()
    try:
        recent = Recent(clock, lambda: NOW)
        recent.read_gauges = lambda: Gauges(2**40, 2**40)
        for _ in range(200):
            for route in range(40):
                number = recent.route_number(f"/v1/route/{route}")
                recent.current.latency |= {NUM_BUCKETS * number + n: 10**6 for n in range(20)}
            recent.current.statuses = dict.fromkeys(range(400, 420), 10**6)
            clock.now += 1
            recent.advance(clock.now)
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert recent.num_bytes <= MAX_BYTES < current + 2**17
    assert current < 2**20
    (first, *_) = rows_of(recent)
    assert first["second"] == recent.oldest, "what was dropped is unknown, not zero"


def test_an_hour_of_events_keeps_the_rows_of_15_minutes(recent, clock):
    for _ in range(3600):
        recent.refuse("overloaded", 503)
        clock.now += 1
    assert len(rows_of(recent)) == SECONDS
    assert len(rows_of(recent, recent.until - 2)) == 2


def test_buckets_are_seven_a_decade():
    assert BOUNDS[0] == 1e-5
    assert BOUNDS[-1] == 100.0
    assert len(BOUNDS) == 7 * 7 + 1 < NUM_BUCKETS
    assert [*BOUNDS] == sorted(BOUNDS)
    assert 0.05 in BOUNDS


# the route


@pytest.fixture
async def service():
    async with whole_service(max_queue_calls=2) as service:
        yield service


def http(service: Outside) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://x")


def end_second(service: Outside) -> None:
    """Let the current second be over."""
    recent = service.metrics.recent
    recent.advance(recent.end)


Q = {"q": [[[1.0, 2.0, 3.0, 4.0]]], "rope": {"theta": 10_000}}


async def ask(client: httpx.AsyncClient, after: int | None = None) -> dict[str, Any]:
    answer = await client.get("/v1/recent", params={} if after is None else {"after": after})
    assert answer.status_code == 200
    return answer.json()


def row_of(answer: dict[str, Any]) -> dict[str, Any]:
    (row,) = answer["rows"]
    return dict(zip(answer["columns"], row, strict=True))


async def test_requests_runs_and_refusals_are_in_the_row(service):
    service.metrics.recent.end += 60
    async with http(service) as client:
        for _ in range(3):
            assert (await client.post("/v1/rotate", json=Q)).status_code == 200
        assert (await client.post("/v1/rotate", json={})).status_code == 422
        assert (await client.get("/nowhere")).status_code == 404
        await client.get("/metrics")
        await client.get("/healthz")
        await ask(client)
        end_second(service)
        answer = await ask(client)
    row = row_of(answer)
    assert row["statuses"] == {"200": 3, "422": 1, "404": 1}
    assert sorted(row["refusals"]) == [["not_found", 404, 1], ["shape", 422, 1]]
    numbers = {name: n for n, name in enumerate(answer["routes"])}
    assert set(numbers) == {"/v1/rotate", "other"}, "health and metrics are in no row"
    triples = [row["latency"][i : i + 3] for i in range(0, len(row["latency"]), 3)]
    counts = {
        route: sum(n for r, _, n in triples if r == number) for route, number in numbers.items()
    }
    assert counts == {"/v1/rotate": 4, "other": 1}
    assert row["runs"] == row["calls"] == row["tokens"] == 3
    assert row["depth"] == 1
    assert 0 < row["compute_s"] <= row["busy_s"] < row["request_s"]
    assert row["admitted_bytes"] > 0 < row["memory_bytes"]


async def test_a_burst_of_refusals_is_seen_although_the_queue_is_empty_again(service):
    service.metrics.recent.end += 60
    async with http(service) as client:
        service.hold()
        sent = [asyncio.ensure_future(client.post("/v1/rotate", json=Q)) for _ in range(6)]
        refused = [next(done) for done in [iter(asyncio.as_completed(sent))] for _ in range(4)]
        await asyncio.gather(*refused)
        service.release()
        statuses = [(await task).status_code for task in sent]
        end_second(service)
        answer = await ask(client)
        metrics = (await client.get("/metrics")).text
    assert sorted(statuses) == [200, 200, 503, 503, 503, 503]
    row = row_of(answer)
    assert row["depth"] == 2 == answer["limits"]["queue_calls"]
    assert row["refusals"] == [["overloaded", 503, 4]]
    assert answer["queue"]["depth"] == 0
    assert 'rope_refusals_total{code="overloaded"} 4.0' in metrics
    assert 'rope_queue_depth_at_arrival_bucket{le="+Inf"} 6.0' in metrics
    assert "rope_queue_depth_at_arrival_sum 9.0" in metrics
    assert "rope_device_busy_seconds_total 0.0\n" not in metrics


async def test_an_answer_of_two_seconds_is_small_and_takes_few_calls(service):
    recent = service.metrics.recent
    for route in range(10):
        recent.route_number(f"/v1/sessions/{{id}}/operation_{route}")
    for _ in range(3):
        recent.current.statuses = {200: 10**5, 503: 400, "OK": 30, "UNAVAILABLE": 10}
        recent.current.refusals = {("overloaded", 503): 400, ("shape", 422): 7}
        recent.current.latency = {
            NUM_BUCKETS * n + 20 + b: 1234 for n in range(10) for b in range(8)
        }
        end_second(service)
    route = service.app.pages["/v1/recent"]
    route.render(0)
    with Profile() as profile:
        body = route.render(recent.until - 2)
    assert len(json.loads(body)["rows"]) == 2
    assert len(body) < 4096
    assert profile.calls.total() <= 25, profile.table()


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("after=-1", 400, "after must be a whole number of seconds since 1970, got -1"),
        ("after=", 400, "after must be"),
        ("after=1.5", 400, "got 1.5"),
        ("after=٣", 400, "after must be"),
        ("after=99999999999999999999", 400, "after must be"),
        ("after=1&after=1", 400, "once"),
        ("since=1", 422, "unknown parameter since"),
        ("&", 400, "once"),
    ],
)
async def test_other_queries_are_refused(service, query, status, detail):
    async with http(service) as client:
        answer = await client.get(f"/v1/recent?{query}")
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


async def test_a_new_process_has_another_start(service):
    async with http(service) as client:
        first = await ask(client)
    async with whole_service() as other, http(other) as client:
        second = await ask(client, first["until"])
    assert second["started"] > first["started"]
    assert second["oldest"] >= int(second["started"]) > first["oldest"] - 1


async def test_settings_are_there_without_secrets(tmp_path):
    key = "a-secret-of-the-operator"
    settings = {"session_key": key, "presets_dir": tmp_path, "shared_memory_prefix": "hidden"}
    async with whole_service(**settings, max_queue_s=0.5) as service, http(service) as client:
        answer = await client.get("/v1/recent")
    about = answer.json()["about"]
    assert about["settings"]["max_queue_s"] == "0.5"
    assert {about["settings"][name] for name in settings} == {"set"}
    assert key not in answer.text
    assert str(tmp_path) not in answer.text
    assert "hidden" not in answer.text


async def test_the_drain_says_what_is_left():
    lifecycle = Lifecycle()
    app = create_app(Settings(device="cpu", warm_up_shapes=""), lifecycle)
    render = app.pages["/v1/recent"].render
    first = json.loads(render(0))
    assert (first["phase"], first["drain"]) == ("warming up", None)
    lifecycle.drain()
    lifecycle.drain_ends = 0.0
    assert json.loads(render(0))["drain"] == {"left_s": 0.0, "requests": 0}
    assert json.loads(render(0))["phase"] == "draining"


async def test_without_the_page_there_is_no_such_route():
    async with whole_service(page=False) as service, http(service) as client:
        assert (await client.get("/v1/recent")).status_code == 404
        assert "/v1/recent" not in (await client.get("/openapi.json")).json()["paths"]
