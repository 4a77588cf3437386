"""A fresh service with eight concurrent requests of 32 MiB: bursts and peak of memory."""

from benchmarks import encodings, servers
from benchmarks.load import Exchange, Load, exchange_files
from benchmarks.table import Row
from benchmarks.workloads import LARGE

CONCURRENCY = 8


def measure(serve_core: int, load_core: int, bursts: int) -> Row:
    """Return the requests/s of the first bursts, and the resident memory in GiB.

    The peak is that of the process, which touches some of its memory before the first request.
    """
    (length,) = LARGE.lengths
    request = encodings.encode(LARGE, length)
    with servers.started("service", serve_core) as server:
        response = encodings.output(LARGE, length, request, server)
    with (
        servers.started("service", serve_core) as server,
        exchange_files([Exchange(request.http(), response)]) as files,
    ):
        before = server.peak_bytes()
        burst = Load(load_core, files, CONCURRENCY, seconds=0)
        rates = [burst.run(str(server.port), compare_bytes=True)["rate"] for _ in range(bursts)]
        peak = server.peak_bytes()
    return {
        "workload": "memory",
        "burst_rates": rates,
        "before_gib": before / 2**30,
        "peak_gib": peak / 2**30,
    }
