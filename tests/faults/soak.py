"""Mixed traffic against a service with fault injection for a long time: `make soak`, or

    SOAK_S=3600 SOAK_SEED=7 SOAK_CLIENTS=16 SOAK_FAULTS=run.raise=0.1 python -m tests.faults.soak

Within IDLE_S seconds after each round, no memory may be charged and no call may wait. From the end
of the warm-up rounds to the last round, resident memory may grow by GROWTH_BYTES.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from tests.conftest import Serve
from tests.faults.traffic import GAUGES, Traffic, read_metrics

FAULTS = "run.raise=0.2,run.slow=0.05,run.hang=0.01,memory.full=0.1"
IDLE_S = 1.0
GROWTH_BYTES = 64 * 2**20
NUM_WARM_ROUNDS = 5


async def soak(seconds: float, seed: int, num_clients: int, faults: str, folder: Path) -> None:
    """Run rounds of traffic.

    Raises:
        AssertionError: an invariant does not hold.
    """
    variables = {"INJECT_FAULTS_SEED": str(seed), "ROPE_LOG_LEVEL": "error"}
    if faults:
        variables["INJECT_FAULTS"] = faults
    end, warm_bytes, i = time.monotonic() + seconds, 0.0, 0
    with Serve(folder)(**variables) as service:
        while time.monotonic() < end or i <= NUM_WARM_ROUNDS:
            i += 1
            traffic = Traffic(service.url, service.grpc_target, seed + i)
            started = time.monotonic()
            await traffic.run(num_clients, num_requests=100)
            ended = time.monotonic()
            samples = await read_metrics(service.url)
            while any(samples[gauge] for gauge in GAUGES):
                assert time.monotonic() < ended + IDLE_S, {name: samples[name] for name in GAUGES}
                samples = await read_metrics(service.url)
            resident = samples["rope_device_memory_bytes"]
            assert not any('status="500"' in name for name in samples)
            print(  # noqa: T201
                f"round {i}: {traffic.outcomes.total()} answers in {ended - started:.1f} s, "
                f"{resident / 2**20:.0f} MiB resident",
                flush=True,
            )
            if i == NUM_WARM_ROUNDS:
                warm_bytes = resident
        assert resident <= warm_bytes + GROWTH_BYTES, (resident, warm_bytes)


if __name__ == "__main__":
    environment = os.environ
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(
            soak(
                float(environment.get("SOAK_S", "600")),
                int(environment.get("SOAK_SEED", "0")),
                int(environment.get("SOAK_CLIENTS", "16")),
                environment.get("SOAK_FAULTS", FAULTS),
                Path(made),
            )
        )
