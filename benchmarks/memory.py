"""Peak memory of a fresh service with eight concurrent requests of 32 MiB."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks import servers, workloads
from benchmarks.workloads import LARGE

CONCURRENCY = 8


def peak(core: int, rounds: int) -> tuple[float, float]:
    """Return the resident memory in GiB before the first request, and at the peak."""
    body = workloads.request_body(LARGE, LARGE.lengths[0])
    with servers.started("service", core) as server, ThreadPoolExecutor(CONCURRENCY) as clients:
        before = server.peak_bytes()
        responses = [
            clients.submit(server.request, "POST", LARGE.path, body)
            for _ in range(CONCURRENCY * rounds)
        ]
        statuses = {response.result()[0] for response in responses}
        if statuses != {200}:
            raise SystemExit(f"memory: statuses {sorted(statuses)}")
        return before / 2**30, server.peak_bytes() / 2**30
