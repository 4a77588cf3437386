"""A short schedule of faults under mixed traffic; `make soak` runs a long one."""

import os

import pytest

from service.faults import read_faults
from tests.conftest import Serve
from tests.faults.traffic import GAUGES, Traffic, read_metrics
from tests.waiting import wait_until_async

FAULTS = "run.raise=0.3,run.slow=0.05,run.hang=0.1,memory.full=0.3"


async def test_mixed_traffic_while_runs_fail(serve: Serve):
    variables = {"INJECT_FAULTS": FAULTS, "INJECT_FAULTS_SEED": "7", "ROPE_LOG_LEVEL": "warning"}
    with serve(**variables) as started:
        traffic = Traffic(started.url, started.grpc_target, seed=7)
        await traffic.run(num_clients=12, num_requests=25)

        async def is_idle() -> bool:
            samples = await read_metrics(started.url)
            return not any(samples[gauge] for gauge in GAUGES)

        await wait_until_async(is_idle)
        after = await read_metrics(started.url)
        counted = sum(v for name, v in after.items() if name.startswith("rope_requests_total{"))
        assert traffic.num_sent <= counted
        assert not any('status="500"' in name for name in after)
        assert started.process.poll() is None
    assert traffic.num_healthy
    assert sum(traffic.outcomes.values()) > traffic.num_sent
    log = serve.last_log()
    assert "faults are injected: this service is for tests only" in log
    assert '"message":"fault"' in log


@pytest.mark.parametrize(
    "text", ["run.raise", "run.raise=2", "run.raise=x", "run.fall=0.1", "run.raise=0.1,,"]
)
def test_faults_that_do_not_exist(text: str):
    with pytest.raises(SystemExit, match="INJECT_FAULTS"):
        read_faults({"INJECT_FAULTS": text})


def test_a_normal_run_has_no_faults():
    assert read_faults({}) is None
    assert read_faults(os.environ) is None
