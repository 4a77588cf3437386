"""A process that times bare calls of torch: reads names of workloads, answers a line for each."""

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
from benchmarks.timing import take_turns
from service.__main__ import MALLOC

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("ROPE_")},
    "GLIBC_TUNABLES": MALLOC,
    "ROPE_GRPC_PORT": "0",
}
"""Of all three processes. With glibc's own settings the floors would be fresh pages, not work: the
bare rotation of 32 MiB takes three times as long."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of one request's work."""

    wall_s: float
    cpu_s: float
    one_by_one_s: float
    """Wall-clock time without batches."""


class Worker:
    """The process, seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, name: str, seconds: float) -> Floor:
        """Return what the workload takes now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, seconds]) + "\n")
        self._process.stdin.flush()
        return Floor(**json.loads(self._process.stdout.readline()))


@contextmanager
def started(core: int) -> Iterator[Worker]:
    """Start the process on a core, and end it."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.floor_worker"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=ENVIRONMENT, text=True)
    try:
        yield Worker(process)
    finally:
        process.communicate()  # the end of its input ends it


def main() -> None:
    """Answer each line."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        name, seconds = json.loads(line)
        print(json.dumps(asdict(_measure(workloads.BY_NAME[name], seconds))), flush=True)


@torch.inference_mode()
def _measure(workload: workloads.Workload, seconds: float) -> Floor:
    batches = sorted({1, workload.batch})
    runs = {str(batch): workloads.bare(workload, batch) for batch in batches}
    rounds = 10
    times = take_turns(runs, rounds, seconds / rounds / len(runs))
    requests = len(workload.lengths)
    batched = times[str(workload.batch)]
    return Floor(
        batched.median / requests / workload.batch,
        median(batched.cpu) / requests / workload.batch,
        times["1"].median / requests,
    )


if __name__ == "__main__":
    main()
