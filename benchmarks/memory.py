"""The most memory that a fresh service takes while eight requests of 32 MiB are in it at once."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks import servers, workloads
from benchmarks.workloads import LARGE

AT_ONCE = 8


def peak(core: int, rounds: int) -> tuple[float, float]:
    """Return GiB before the first request, and at the peak."""
    body = workloads.body(LARGE, LARGE.lengths[0])
    with servers.started("service", core) as server, ThreadPoolExecutor(AT_ONCE) as clients:
        before = server.peak_bytes()
        posts = [
            clients.submit(server.ask, "POST", LARGE.path, body) for _ in range(AT_ONCE * rounds)
        ]
        statuses = {post.result()[0] for post in posts}
        if statuses != {200}:
            raise SystemExit(f"memory: answers {sorted(statuses)}")
        return before / 2**30, server.peak_bytes() / 2**30
