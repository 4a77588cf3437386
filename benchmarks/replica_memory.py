"""Resident memory of one replica: when ready, after load, after a large request, with a session.

`python -m benchmarks.replica_memory` prints the table of docs/deploy/sizing.md. The memory is that
of the service process, from /proc. `rope-service bench` measures the requests a second.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rope_client import Client
from tests.conftest import Serve

MIB = 1 << 20
CASES = (
    ("defaults", {}),
    ("ROPE_PREFAULT_BYTES=0", {"ROPE_PREFAULT_BYTES": "0"}),
    ("the same, sessions of 256 MiB", {"ROPE_PREFAULT_BYTES": "0", "ROPE_KV_BYTES": "268435456"}),
)


def resident_mib(pid: int) -> int:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def bench(url: str, work: str, seconds: float) -> float:
    """Return the requests a second of `rope-service bench` with eight connections."""
    command = [sys.executable, "-m", "service", "bench", url, "--work", work, "--json"]
    options = ["--clients", "8", "--seconds", str(seconds)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["service"]["requests_per_s"])


def measure(name: str, threads: int, variables: dict[str, str], seconds: float) -> str:
    """Return one row of the table."""
    with TemporaryDirectory() as folder:
        serve = Serve(Path(folder))
        settings = {"ROPE_THREADS": str(threads), "ROPE_LOG_LEVEL": "warning", **variables}
        with serve(**settings) as started, Client(started.url) as client:
            pid = started.process.pid
            ready = resident_mib(pid)
            rates = [bench(started.url, work, seconds) for work in ("rotate", "attention")]
            loaded = resident_mib(pid)
            q = np.ones((1, 4096, 32, 128), np.float32)  # 64 MiB in, 64 MiB out
            client.rotate(q, rope={"theta": 10000.0})
            large = resident_mib(pid)
            held = ""
            if "ROPE_KV_BYTES" in variables:
                with client.session(heads=8, kv_heads=8, head_dim=128, max_tokens=1024):
                    held = str(resident_mib(pid))
    cells = (name, str(threads), *(f"{rate:,.0f}" for rate in rates), ready, loaded, large, held)
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, resident memory in MiB")
    print("| settings | threads | rotate/s | attention/s | ready | loaded | large | session |")
    for name, variables in CASES:
        for threads in (1, 2):
            print(measure(name, threads, variables, arguments.seconds), flush=True)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "ROPE_PREFAULT_BYTES"):  # the tests set the second one
        os.environ.pop(name, None)
    main()
