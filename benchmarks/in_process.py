"""What a call costs that leaves the process: `python -m benchmarks.in_process`.

`rope_core.rotate` and `Client.rotate` (safetensors over loopback) rotate the same float32 q. Their
answers are compared first, bit for bit. Each round makes 20 calls of a kind in a row. The service
has one core; the library and the client have all. A second row of the library keeps its answers, so
that each call takes fresh memory. The columns: medians of all rounds, and of the fastest round.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import rope_core
from benchmarks import servers, table
from rope_client import Client

SHAPES = ((1, 1024, 32, 128), (1, 1, 32, 128))
ROPE = {"theta": 500_000.0}
NUM_CALLS = 20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    args = parser.parse_args()
    num_rounds, num_calls = (2, 2) if args.quick else (args.rounds, NUM_CALLS)
    serve_core = min(os.sched_getaffinity(0))
    table.print_machine()
    table.print_header(("q", "call", "ms, median", "ms, fastest round", "x library"))
    with (
        servers.started("service", serve_core) as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        for shape in SHAPES:
            _measure(client, shape, num_rounds, num_calls)


def _measure(client: Client, shape: tuple[int, ...], num_rounds: int, num_calls: int) -> None:
    q = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    array, positions = q.numpy(), torch.arange(shape[1])
    kept: list[Tensor] = []

    def library() -> Tensor:
        return rope_core.rotate(q, positions=positions, rope=ROPE)

    def service() -> object:
        return client.rotate(q=array, positions=positions, rope=ROPE).q

    if not np.array_equal(library().numpy(), service()):
        raise SystemExit(f"the answers for {list(shape)} differ")
    calls: dict[str, Callable[[], object]] = {
        "library": library,
        "library, answers kept": lambda: kept.append(library()),
        "service": service,
    }
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            times = []
            for _ in range(num_calls):
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
            kept.clear()
            rounds[name].append(1e3 * statistics.median(times))
    for name, medians in rounds.items():
        ratio = statistics.median(
            own / base for own, base in zip(medians, rounds["library"], strict=True)
        )
        table.print_row((list(shape), name, statistics.median(medians), min(medians), ratio))


if __name__ == "__main__":
    main()
