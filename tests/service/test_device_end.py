"""A device that fails ends the service with its own exit code; a full one does not."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from service.lifecycle import Lifecycle, Phase
from service.server.app import create_app
from service.server.bootstrap import build_service
from service.settings import Settings
from service.wire import Message
from service.wire import safetensors_codec as codec
from tests.conftest import Serve
from tests.service.conftest import post
from tests.service.fake_driver import FakeDriver

SERVICE = "tests.service.fake_service"

LIMIT = 300_000
"""Inputs with more bytes make the device fail."""


def body(length: int) -> bytes:
    return b"".join(codec.encode(Message({"q": torch.ones(1, length, 8, 64)})))


def request(url: str, length: int) -> httpx.Response:
    headers = {"content-type": codec.media_type}
    return httpx.post(f"{url}/v1/rotate", content=body(length), headers=headers, timeout=30)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(
    ("fault", "code", "status", "exit_code"),
    [
        ("lost", "device_lost", "device lost", 70),
        ("stuck", "device_stuck", "device stuck", 71),
    ],
)
def test_a_failed_device_fails_all_calls_and_ends_the_process(
    serve: Serve, fault, code, status, exit_code
):
    settings = {"ROPE_DEVICE_STUCK_S": "1", "ROPE_DRAIN_DELAY_S": "1", "FAKE": f"{fault}:{LIMIT}"}
    settings["ROPE_WARM_UP_SHAPES"] = ""
    with serve(SERVICE, **settings) as (url, process):
        assert request(url, 4).status_code == 200
        started = time.monotonic()
        with ThreadPoolExecutor(8) as clients:
            lengths = [1000, *[4] * 7]
            answers = [*clients.map(lambda length: request(url, length), lengths)]
        assert code_of(answers[0]) == (503, code)
        assert answers[0].headers["retry-after"]
        assert "CUDA" not in answers[0].text
        for answer in answers[1:]:
            assert answer.status_code == 200 or code_of(answer) == (503, code)
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": status})
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert "rope_ready 0.0" in httpx.get(f"{url}/metrics").text
        assert code_of(request(url, 4)) == (503, code), "no new calls"
        assert httpx.post(f"{url}/v1/resolve", json={"rope": {"head_dim": 8}}).status_code == 200
        assert process.wait(10) == exit_code
        assert time.monotonic() - started < 10
    assert "ending: the device" in serve.last_log()


def test_a_full_device_refuses_large_calls_and_serves_small_ones(serve: Serve):
    with serve(SERVICE, FAKE=f"full:{LIMIT}", ROPE_WARM_UP_SHAPES="") as (url, process):
        for _ in range(2):
            full = request(url, 1000)
            assert code_of(full) == (503, "device_memory")
            assert full.headers["retry-after"]
            assert "GiB" not in full.text
            assert request(url, 4).status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert process.poll() is None


def test_a_failed_device_and_a_drain_do_not_undo_each_other():
    end_phases = []
    lifecycle = Lifecycle()
    lifecycle.begin_drain = lambda: end_phases.append(lifecycle.phase)
    lifecycle.drain()
    lifecycle.fail(Phase.LOST)
    assert (lifecycle.phase, lifecycle.exit_code, end_phases) == (Phase.LOST, 70, []), (
        "the drain has begun"
    )
    lifecycle.fail(Phase.STUCK)
    assert lifecycle.exit_code == 70
    other = Lifecycle()
    assert (other.exit_code, other.ending) == (0, False)
    other.begin_drain = lambda: end_phases.append(other.phase)
    other.fail(Phase.STUCK)
    other.warmed_up()
    assert (other.phase, end_phases) == (Phase.STUCK, [Phase.STUCK])


@pytest.mark.parametrize(("driver", "stuck_s"), [(None, None), (FakeDriver(), 30.0)])
def test_only_a_device_that_may_hang_has_a_watchdog(driver, stuck_s):
    settings = Settings(device="cpu", device_stuck_s=30)
    handler, _ = build_service(settings, Lifecycle(), driver)
    assert handler.batcher.stuck_s == stuck_s


async def client_of(driver: FakeDriver, lifecycle: Lifecycle, **settings: object):
    settings = {"warm_up_shapes": "2x1x8", **settings}
    app = create_app(Settings(log_level="error", **settings), lifecycle, driver)
    return app, httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://service"
    )


async def until(phase: Phase, lifecycle: Lifecycle) -> None:
    async with asyncio.timeout(30):
        async for current in lifecycle.changes():
            if current is phase:
                break


async def test_a_device_lost_in_the_warm_up_ends_the_service():
    driver, lifecycle = FakeDriver(), Lifecycle()
    driver.fault = lambda step, _: driver.lose() if step == "compute" else None
    app, client = await client_of(driver, lifecycle)
    async with app.app.router.lifespan_context(app.app), client:
        await until(Phase.LOST, lifecycle)
        answer = await post(client, codec, "/v1/rotate", Message({"q": torch.ones(1, 2, 2, 8)}))
        assert code_of(answer) == (503, "device_lost")
    assert lifecycle.exit_code == 70


async def test_calls_wait_for_a_long_warm_up_and_the_watchdog_does_not_end_it():
    warmed_up, driver, lifecycle = threading.Event(), FakeDriver(), Lifecycle()
    message = Message({"q": torch.ones(1, 2, 2, 8)})

    def fault(step: str, _: int) -> None:
        if step == "compute" and lifecycle.phase is Phase.WARMING_UP:
            assert warmed_up.wait(10)

    driver.fault = fault
    app, client = await client_of(driver, lifecycle, device_stuck_s=0.1)
    async with app.app.router.lifespan_context(app.app), client:
        early = asyncio.create_task(post(client, codec, "/v1/rotate", message))
        late = await post(client, codec, "/v1/rotate", message, x_request_timeout_ms="300")
        assert code_of(late) == (504, "timed_out")
        assert (lifecycle.phase, early.done()) == (Phase.WARMING_UP, False)
        warmed_up.set()
        await until(Phase.READY, lifecycle)
        answer = await early
        assert answer.status_code == 200
        assert "compute;dur=" in answer.headers["server-timing"]
        scraped = (await client.get("/metrics")).text
        assert "rope_compute_seconds_count 1.0" in scraped
        assert "rope_device_memory_bytes 1.0" in scraped
