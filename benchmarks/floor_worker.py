"""A process that times plain torch calls: reads names of workloads, writes a line for each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import torch

from benchmarks import workloads
from benchmarks.timing import time_interleaved
from service.__main__ import MALLOC

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("ROPE_")},
    "GLIBC_TUNABLES": MALLOC,
    "ROPE_GRPC_PORT": "0",
}
"""Environment of all servers and of the worker. With glibc's defaults, page faults would dominate
the floors: the plain rotation of 32 MiB takes three times as long."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of plain torch per request."""

    wall_s: float
    cpu_s: float
    unbatched_wall_s: float


class Worker:
    """Handle of the worker process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, name: str, seconds: float) -> Floor:
        """Time a workload for about `seconds`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, seconds]) + "\n")
        self._process.stdin.flush()
        return Floor(**json.loads(self._process.stdout.readline()))


@contextmanager
def started(core: int) -> Iterator[Worker]:
    """Start the worker on a core, and stop it at the end."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.floor_worker"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=ENVIRONMENT, text=True)
    try:
        yield Worker(process)
    finally:
        process.communicate()  # closes its input, which ends the worker


def main() -> None:
    """Measure the workload of each line of the input."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        name, seconds = json.loads(line)
        print(json.dumps(asdict(_measure(workloads.BY_NAME[name], seconds))), flush=True)


@torch.inference_mode()
def _measure(workload: workloads.Workload, seconds: float) -> Floor:
    batches = sorted({1, workload.batch})
    runs = {str(batch): workloads.torch_calls(workload, batch) for batch in batches}
    rounds = 10
    times = time_interleaved(runs, rounds, seconds / rounds / len(runs))
    requests = len(workload.lengths)
    batched = times[str(workload.batch)]
    return Floor(
        batched.median / requests / workload.batch,
        median(batched.cpu) / requests / workload.batch,
        times["1"].median / requests,
    )


if __name__ == "__main__":
    main()
