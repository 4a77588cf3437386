"""The adapter for Ray Serve with a real cluster on this machine: `make test-ray` runs it.

Figures are printed; a failed check ends the process with an error.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np

from rope_client import Client, RetryPolicy, Session, SessionGone
from tests.deploy.ray.cluster import Cluster, cluster, wait_for
from tests.deploy.ray.load import Load, rotate
from tests.deploy.report import print_line
from tests.free_ports import free_ports

NUM_SESSIONS = 40
SESSIONS = {"ROPE_SESSIONS": "open", "ROPE_SESSION_KEY": "a secret of this test"}
SESSION = {"layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 64, "max_tokens": 64}
RANDOM = np.random.default_rng(1)
Q = RANDOM.standard_normal((1, 1, 4, 64), dtype=np.float32)
K, V = RANDOM.standard_normal((2, 1, 1, 2, 64), dtype=np.float32)

DOCUMENTED = re.compile(r"Overloaded 503 \w+|ConnectionFailed None None|UnexpectedAnswer 500 None")
"""What a client may see while a replica dies: the drain of the service, a closed connection, or the
plain 500 of Ray's proxy for the requests that the replica held."""


def main() -> None:
    """Run all checks on one cluster."""
    [dashboard_port, http_port, direct_port] = free_ports(3)
    with direct_service(direct_port) as url, cluster(dashboard_port, http_port) as ray_cluster:
        ray_cluster.deploy(env=SESSIONS, args={"direct": True}, num_replicas=2)
        replicas = ray_cluster.replicas()
        print_line(f"deployed by its config file: replicas {', '.join(replicas)}")
        check_answers(ray_cluster, url)
        compare(ray_cluster, url)
        with Client(ray_cluster.url, retry=RetryPolicy(max_attempts=1)) as client:
            sessions = create_sessions(client, ray_cluster)
            check_growth(ray_cluster, sessions, replicas)
            check_metrics(ray_cluster, 3)
            check_death(ray_cluster, url, sessions)
        check_shrink(ray_cluster, url)
        check_autoscaling(ray_cluster)
        check_lost_device(ray_cluster, url)
    print_line("all checks passed")


def check_answers(ray_cluster: Cluster, url: str) -> None:
    """Answers have the same bits as those of the service alone."""
    with Client(url) as direct, Client(ray_cluster.url) as routed:
        for seed in range(20):
            q, k, v = np.random.default_rng(seed).standard_normal((3, 33, 4, 64), dtype=np.float32)
            for name, tensors in (("attention", (q, k, v)), ("rotate", (q, k))):
                arguments = dict(zip("qkv", tensors, strict=False))
                answers = [getattr(each, name)(**arguments) for each in (direct, routed)]
                one, other = (answer.out if name == "attention" else answer.q for answer in answers)
                require(np.array_equal(one, other), f"{name} {seed}: other bits through Ray")
    bad = [httpx.post(f"{each}/v1/rotate", json={"q": 1}) for each in (url, ray_cluster.url)]
    require(bad[0].status_code == bad[1].status_code == 422, "an error has another status")
    require(bad[0].json() == bad[1].json(), "an error has another problem document")
    print_line("answers: 40 of 40 have the bits of the service alone")


def compare(ray_cluster: Cluster, url: str) -> None:
    """Print the time of a call alone, and calls a second of 8 threads, beside one process."""
    medians, rates = [], []
    for base in (url, ray_cluster.url):
        seconds = []
        with Client(base) as client:
            right = rotate(client)
            for _ in range(200):
                start = time.perf_counter()
                rotate(client)
                seconds.append(time.perf_counter() - start)
        medians.append(statistics.median(seconds))
        rates.append(measure_rate(base, right))
    print_line(
        f"a call alone: {medians[0] * 1e3:.1f} ms direct, {medians[1] * 1e3:.1f} ms through Ray, "
        f"{medians[1] / medians[0]:.1f}x"
    )
    print_line(
        f"8 threads: {rates[0]:.0f}/s one process, {rates[1]:.0f}/s two replicas of Ray, "
        f"{rates[1] / rates[0]:.2f}x"
    )


def measure_rate(url: str, right: np.ndarray) -> float:
    """Return answers a second of 8 threads; an answer that is not right ends the process."""
    load = Load(url, right, num_threads=8)
    wait_for("answers", lambda: load.outcomes["ok"] >= 300)
    load.end()
    require(set(load.outcomes) == {"ok"}, f"{url}: {load.outcomes}")
    return load.rate()


def create_sessions(client: Client, ray_cluster: Cluster) -> list[Session]:
    """Create sessions through the proxy; each answers through it and on the port of its replica."""
    sessions: list[Session] = []

    def both_have_some() -> bool:  # Ray's queue lengths are up to 10 s old: one may get the first
        sessions.extend(client.session(**SESSION) for _ in range(NUM_SESSIONS))
        return min(count_by_owner(sessions, ray_cluster)) > 2

    wait_for("sessions on both replicas", both_have_some)
    outs = [each.step(0, Q, K, V).out for each in sessions]
    require(all(np.array_equal(out, outs[0]) for out in outs), "steps have different answers")
    for each in sessions:  # curl sends no header: the router reads the path
        answer = httpx.get(f"{ray_cluster.url}/v1/sessions/{each.state.id}")
        require(answer.status_code == 200, f"by the path: {answer.status_code}")
    answer = httpx.post(f"{ray_cluster.url}/v1/sessions", json={**SESSION, "rope": {}})
    endpoint = answer.headers["x-session-endpoint"]
    stats = httpx.get(f"{endpoint}/v1/sessions/{answer.json()['id']}")
    require(stats.status_code == 200, f"own port {endpoint}: {stats.status_code}")
    shares = count_by_owner(sessions, ray_cluster)
    print_line(
        f"sessions: {len(sessions)} on two replicas {shares}, each found by header and by path"
    )
    return sessions


def check_growth(ray_cluster: Cluster, sessions: list[Session], before: dict[str, int]) -> None:
    """A third replica moves nothing."""
    ray_cluster.deploy(env=SESSIONS, args={"direct": True}, num_replicas=3)
    after = ray_cluster.replicas()
    require(before.items() <= after.items(), f"replicas were replaced: {before} {after}")
    moved = [each for each in sessions if step(each) != "ok"]
    require(not moved, f"{len(moved)} sessions moved")
    print_line(f"2 -> 3 replicas: the two stay, 0 of {len(sessions)} sessions moved")


def check_metrics(ray_cluster: Cluster, number: int) -> None:
    """One scrape has all replicas."""
    page = httpx.get(f"{ray_cluster.url}/metrics").raise_for_status().text
    names = set(re.findall(r'^rope_ready\{replica="(\w+)"\} 1\.0$', page, re.MULTILINE))
    require(names == set(ray_cluster.replicas()) and len(names) == number, f"metrics of {names}")
    print_line(f"metrics: {number} replicas in one scrape of {len(page.encode()) >> 10} KiB")


def check_death(ray_cluster: Cluster, url: str, sessions: list[Session]) -> None:
    """A replica is killed under load."""
    before = ray_cluster.replicas()
    dead = max(before, key=lambda name: sum(owner(each) == name for each in sessions))
    with Client(url) as direct:
        load = Load(ray_cluster.url, rotate(direct))
    wait_for("answers", lambda: load.outcomes["ok"] > 50)
    os.kill(before[dead], signal.SIGSTOP)
    wait_for("requests that it holds", lambda: load.longest_wait_s() > 1)
    os.kill(before[dead], signal.SIGKILL)
    start = time.monotonic()
    wait_for("a new replica", lambda: len(ray_cluster.replicas().keys() - {dead}) == 3)
    replaced_s = time.monotonic() - start
    num_ok = load.outcomes["ok"]
    wait_for("answers of the new replica", lambda: load.outcomes["ok"] > num_ok + 50)
    load.end()
    check_outcomes(load, "a replica was killed", f"replaced after {replaced_s:.1f} s")
    states = {True: set[str](), False: set[str]()}
    for each in sessions:
        states[owner(each) == dead].add(step(each))
    require(states == {True: {"410 owner_lost"}, False: {"ok"}}, f"sessions: {states}")
    num_lost = sum(owner(each) == dead for each in sessions)
    print_line(
        f"sessions: {num_lost} of the dead replica 410 owner_lost, {len(sessions) - num_lost} "
        "of the others go on"
    )


def check_shrink(ray_cluster: Cluster, url: str) -> None:
    """Fewer replicas and a new version under load of a client that does not retry."""
    with Client(url) as direct:
        load = Load(ray_cluster.url, rotate(direct))
    ray_cluster.deploy(env=SESSIONS, args={"direct": True}, num_replicas=2)
    check = dict(load.outcomes)
    ray_cluster.deploy(env={**SESSIONS, "ROPE_MAX_SESSIONS": "99"}, num_replicas=2)
    load.end()
    require(set(load.outcomes) == {"ok"}, f"3 -> 2 replicas: {check}, update: {load.outcomes}")
    print_line(
        f"3 -> 2 replicas, then all replaced by a new version: {load.outcomes['ok']} requests, "
        "0 failed"
    )


def check_autoscaling(ray_cluster: Cluster) -> None:
    """Reserved memory of sessions brings a second replica."""
    ray_cluster.deploy(
        env={**SESSIONS, "ROPE_KV_BYTES": str(2**24)},
        num_replicas=None,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 2,
            "target_ongoing_requests": 64,
            "upscale_delay_s": 1,
            "downscale_delay_s": 2,
            "metrics_interval_s": 1,
            "look_back_period_s": 3,
            "policy": {"policy_function": "rope_ray.autoscaling:by_utilization"},
        },
    )
    wait_for("one replica", lambda: len(ray_cluster.replicas()) == 1)
    with Client(ray_cluster.url) as client:
        client.session(**{**SESSION, "max_tokens": 12_000})  # 12 of 16 MiB
    start = time.monotonic()
    wait_for("a second replica", lambda: len(ray_cluster.replicas()) == 2)
    print_line(
        f"autoscaling: reserved memory above 60 %: 2 replicas after "
        f"{time.monotonic() - start:.0f} s"
    )


def check_lost_device(ray_cluster: Cluster, url: str) -> None:
    """A replica with a lost device is replaced."""
    faults = {"INJECT_FAULTS": "device.lost=0.01"}
    ray_cluster.deploy(env=faults, num_replicas=2)
    before = ray_cluster.replicas().keys()
    with Client(url) as direct:
        load = Load(ray_cluster.url, rotate(direct), num_threads=2)
    start = time.monotonic()
    wait_for("a replacement", lambda: ray_cluster.replicas().keys() - before)
    load.end()
    check_outcomes(load, "devices lost", f"replaced after {time.monotonic() - start:.1f} s")


def check_outcomes(load: Load, event: str, text: str) -> None:
    """Each answer is right or a documented error."""
    counts = dict(load.outcomes)
    others = [name for name in counts if name != "ok" and not DOCUMENTED.fullmatch(name)]
    require(not others, f"{event}: {counts}")
    print_line(f"{event}: {counts}, slowest {max(load.seconds):.1f} s, {text}")


def step(session: Session) -> str:
    """Return how a step of a session ends."""
    try:
        session.step(0, Q, K, V)
    except SessionGone as gone:
        return f"{gone.status} {gone.reason}"
    return "ok"


def count_by_owner(sessions: list[Session], ray_cluster: Cluster) -> list[int]:
    """Return the number of sessions of each replica."""
    return [sum(owner(each) == name for each in sessions) for name in ray_cluster.replicas()]


def owner(session: Session) -> str:
    """Return the replica that has a session."""
    return str(session.state.id.split(".")[1])


@contextmanager
def direct_service(port: int) -> Iterator[str]:
    """Run the service alone, without Ray."""
    own = {"ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": "0", "ROPE_DEVICE": "cpu"}
    environment = {**os.environ, **own, "ROPE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "service", "serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for("the service alone", lambda: is_ready(url))
            yield url
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    """Return whether a service is ready."""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def require(holds: bool, text: str) -> None:
    """End with an error if a check does not hold."""
    if not holds:
        raise SystemExit(f"FAILED: {text}")


if __name__ == "__main__":
    main()
