"""A short schedule of faults under mixed traffic; `make soak` runs a long one."""

import asyncio
import json
import os
import signal
from urllib.parse import quote

import pytest

from service.asgi.middleware import QUIET
from service.faults import read_faults
from tests.conftest import Serve
from tests.faults.traffic import GAUGES, Traffic, read_metrics
from tests.service.planned.requests import Client
from tests.waiting import wait_until_async

FAULTS = "run.raise=0.3,run.slow=0.05,run.hang=0.1,memory.full=0.3"


NUM_REFUSED = 720
"""More requests than the buffer of log lines has room for."""

LONG_PATH = "/" + quote("\U0001f300" * 127)  # twelve characters each in a line


async def test_mixed_traffic_with_failing_runs_and_an_unread_log(serve: Serve):
    reading, writing = os.pipe()
    variables = {"INJECT_FAULTS": FAULTS, "INJECT_FAULTS_SEED": "7"}
    with serve(output=writing, **variables) as started:
        url, process = started
        os.close(writing)
        traffic = Traffic(url, started.grpc_target, seed=7)
        await traffic.run(num_clients=12, num_requests=15)

        async def is_idle() -> bool:
            samples = await read_metrics(url)
            return not any(samples[gauge] for gauge in GAUGES)

        await wait_until_async(is_idle)
        after = await read_metrics(url)
        counted = sum(number for name, number in after.items() if is_logged(name))
        assert traffic.num_sent <= counted
        assert not any('status="500"' in name for name in after)
        assert traffic.num_healthy
        assert traffic.outcomes.total() > traffic.num_sent

        client = await Client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        for _ in range(NUM_REFUSED // 80):
            await client.send(f"GET {LONG_PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode() * 80)
            assert {(await client.read()).status for _ in range(80)} == {404}
        client.leave()
        num_dropped = (await read_metrics(url))["rope_log_lines_dropped_total"]
        process.send_signal(signal.SIGINT)
        lines = [json.loads(line) for line in await asyncio.to_thread(read_all, reading)]
        assert process.wait(10) == 0
    assert lines[0]["message"] == "faults are injected: this service is for tests only"
    assert any(line["message"] == "fault" for line in lines)
    (gap,) = [line for line in lines if "num_dropped" in line]
    assert 0 < num_dropped <= gap["num_dropped"]
    num_logged = sum(line["message"] == "request" for line in lines)
    assert num_logged + num_dropped >= counted + NUM_REFUSED, "each line is there or counted"


def is_logged(name: str) -> bool:
    """Return whether the requests of a sample are logged."""
    return name.startswith("rope_requests_total{") and not any(
        f'"{path}"' in name for path in QUIET
    )


def read_all(fd: int) -> list[bytes]:
    """Return all lines until the end of the process."""
    with open(fd, "rb") as log:
        return [*log]


@pytest.mark.parametrize(
    "text", ["run.raise", "run.raise=2", "run.raise=x", "run.fall=0.1", "run.raise=0.1,,"]
)
def test_faults_that_do_not_exist(text: str):
    with pytest.raises(SystemExit, match="INJECT_FAULTS"):
        read_faults({"INJECT_FAULTS": text})


def test_a_normal_run_has_no_faults():
    assert read_faults({}) is None
    assert read_faults(os.environ) is None
