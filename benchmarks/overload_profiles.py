"""Overload profiles, and the bars that the service must meet in each of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

from benchmarks.load import Load, exchange_files
from benchmarks.open_load import Arrivals, OpenLoad, request_files
from benchmarks.overload_requests import exchange, large_answer_request, sized_exchange
from benchmarks.overload_subject import Subject
from benchmarks.slow_clients import Pace, SlowClients
from benchmarks.table import Row
from benchmarks.workloads import TINY

DEADLINE_MS = 500
LARGE_DEADLINE_MS = 30_000
KEPT_ALIVE = 1024
"""Connections of a run with keep-alive. With only 256 the queue would never be longer than half a
second, and a service that refuses nothing would pass."""

MAX_NEW_CONNECTIONS = 4096
"""Most open connections of a run that opens a connection for each arrival."""

LARGEST_BYTES = 256 << 20
MIXED_CONNECTIONS = 8
SMALL_RATE = 200
SLOW_READERS, SLOW_WRITERS = 64, 200
SLOW_WRITER_S = 20
"""Time after which a client that drips its request must be cut."""

HEALTH_P99_MS = 100
REFUSED_P99_MS = 100
ANSWERS = {200, 413, 429, 503, 504}
"""413 is correct for large bodies; only one profile sends them."""


def measure_capacity(subject: Subject, key: str = "") -> Row:
    """Return the row of a closed loop: the best rate of a few numbers of connections.

    Raises:
        LoadError: a response is not 200 with the right length.
    """
    seconds = min(max(0.5, subject.seconds / 6), subject.seconds)

    def run(connections: int, seconds: float) -> dict[str, float]:
        load = Load(subject.load_core, files, connections, seconds)
        return load.run(str(subject.server.port))

    with exchange_files([exchange(subject.server, None, key=key)]) as files:
        run(32, seconds / 2)  # not counted: first use of memory and connections
        best = max((run(connections, seconds) for connections in (8, 32, 64)), key=_rate)
        one = run(1, seconds)
    return {
        "profile": "capacity, closed loop",
        "goodput": best["rate"],
        "share": 1.0,
        "statuses": {200: int(best["responses"])},
        "accepted": {"p50_ms": best["p50_ms"], "p99_ms": best["p99_ms"]},
        "unloaded_p99_ms": one["p99_ms"],
        "bars": {},
    }


def _rate(figures: Mapping[str, float]) -> float:
    return figures["rate"]


def measure_kept_alive(subject: Subject) -> Iterator[Row]:
    """Yield a row for each multiple of the capacity, on connections that are kept alive."""
    yield from _measure_multiples(subject, "kept-alive", 0.9, KEPT_ALIVE, new_connections=False)


def measure_new_connections(subject: Subject) -> Iterator[Row]:
    """Yield a row for each multiple of the capacity, with a connection for each arrival."""
    connections = MAX_NEW_CONNECTIONS
    yield from _measure_multiples(
        subject, "new connections", 0.7, connections, new_connections=True
    )


def _measure_multiples(
    subject: Subject, name: str, min_share: float, connections: int, *, new_connections: bool
) -> Iterator[Row]:
    capacity = measure_capacity(subject)
    yield capacity
    peak, unloaded_p99_ms = capacity["goodput"], capacity["unloaded_p99_ms"]
    sent = [exchange(subject.server, DEADLINE_MS, closes=new_connections)]
    before: float | None = None
    with request_files(sent) as files:
        load = _load(subject, files, connections=connections, new_connections=new_connections)
        for multiple in (0.5, 1, 2, 10):
            load = replace(load, rate=multiple * peak)
            row = subject.run(f"{multiple:g}x, {name}", load)
            row["share"] = row["goodput"] / peak
            bars = {}
            if multiple == 0.5:
                before = p99_ms(row["accepted"])
                bars["no refusal"] = {*row["statuses"]} == {200}
                bars["p99 <= 5 x unloaded"] = before <= 5 * unloaded_p99_ms
            else:
                bar = min_share if multiple > 1 or new_connections else 0.95
                bars[f"goodput >= {bar:g} of peak"] = row["share"] >= bar
                bars[f"refused p99 <= {REFUSED_P99_MS} ms"] = (
                    not row["refused"] or p99_ms(row["refused"]) <= REFUSED_P99_MS
                )
            if multiple == 2:
                p99 = p99_ms(row["accepted"])
                bars["accepted p99 <= 5 x unloaded"] = p99 <= 5 * unloaded_p99_ms
            yield with_verdict(row, bars)
        load = replace(load, rate=peak / 2, warm_up_s=min(5, subject.seconds / 2))
        row = subject.run(f"0.5x after it, {name}", load)
        row["share"] = row["goodput"] / peak
        bars = {
            "goodput >= 0.95 of offered": row["goodput"] >= 0.95 * row["offered_rate"],
            "p99 <= 2 x before": p99_ms(row["accepted"]) <= 2 * before,
        }
        yield with_verdict(row, bars)


def measure_mixed(subject: Subject) -> Iterator[Row]:
    """Yield rows of small requests: alone, and beside 8 connections with 1 KiB to 256 MiB."""
    small = [exchange(subject.server, DEADLINE_MS, TINY)]
    large = (
        sized_exchange(subject.server, LARGEST_BYTES >> i, LARGE_DEADLINE_MS) for i in range(19)
    )
    with request_files(small) as small_files, request_files(large) as large_files:
        load = _load(subject, small_files, rate=SMALL_RATE)
        alone = subject.run(f"{SMALL_RATE} small/s alone", load)
        yield with_verdict(alone, {})
        beside = OpenLoad(
            subject.load_core,
            large_files,
            rate=100,
            seconds=subject.seconds,
            deadline_ms=LARGE_DEADLINE_MS,
            connections=MIXED_CONNECTIONS,
            seed=1,
            timeout_s=60,
        )
        with ThreadPoolExecutor() as pool:
            running = pool.submit(beside.run, subject.server.port)
            row = subject.run(f"{SMALL_RATE} small/s beside mixed sizes", load)
            mixed = running.result()
        p99 = p99_ms(row["accepted"])
        bars = {"small p99 <= 3 x alone": p99 <= 3 * p99_ms(alone["accepted"])}
        yield with_verdict(row, bars)
        yield _mixed_row(mixed, beside)


def _mixed_row(arrivals: Arrivals, load: OpenLoad) -> Row:
    """Return the row of the large requests; memory and health are in the row before."""
    row: Row = {
        "profile": f"{MIXED_CONNECTIONS} connections, 1 KiB to 256 MiB",
        **asdict(arrivals),
        "offered_rate": (arrivals.offered - arrivals.dropped) / load.seconds,
        "goodput": arrivals.in_deadline / load.seconds,
    }
    row["slip"] = None  # most arrivals find no free connection: this is a closed loop
    return row | {"bars": {"answers": {*arrivals.statuses} <= ANSWERS}}


def measure_slow_readers(subject: Subject) -> Iterator[Row]:
    """Yield rows of half the capacity: alone, and beside clients that read 16 KiB/s."""
    request = large_answer_request().http()
    paces = [Pace(request, read_bytes=4096)] * SLOW_READERS
    name = f"{SLOW_READERS} slow readers"
    clients = SlowClients(subject.server.port, paces, interval_s=0.25, reconnects=False)
    yield from _measure_beside(subject, name, clients)


def measure_slow_writers(subject: Subject) -> Iterator[Row]:
    """Yield rows of half the capacity: alone, and beside clients that send a byte per second."""
    start = b"POST /v1/attention HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    header, end, _ = exchange(subject.server, None).request.partition(b"\r\n\r\n")
    slow_header, slow_body = Pace(start, drip=b"X-Name: value\r\n"), Pace(header + end, drip=b"\0")
    paces = [slow_header, slow_body] * (SLOW_WRITERS // 2)
    name = f"{SLOW_WRITERS} slow writers"
    clients = SlowClients(subject.server.port, paces, interval_s=1, reconnects=True)
    yield from _measure_beside(subject, name, clients)


def _measure_beside(subject: Subject, name: str, clients: SlowClients) -> Iterator[Row]:
    capacity = measure_capacity(subject)
    yield capacity
    peak = capacity["goodput"]
    with request_files([exchange(subject.server, DEADLINE_MS)]) as files:
        load = _load(subject, files, rate=peak / 2, warm_up_s=min(5, subject.seconds / 2))
        alone = subject.run("0.5x alone", load)
        alone["share"] = alone["goodput"] / peak
        yield with_verdict(alone, {})
        with clients.running():
            row = subject.run(f"0.5x beside {name}", load)
    row["share"] = row["goodput"] / peak
    row["slow_cut"] = clients.num_cut
    row["slow_longest_s"] = max(clients.lifetimes_s)
    bars = {
        "goodput >= 0.95 of offered": row["goodput"] >= 0.95 * row["offered_rate"],
        "p99 <= 2 x alone": p99_ms(row["accepted"]) <= 2 * p99_ms(alone["accepted"]),
    }
    if clients.reconnects and subject.seconds > SLOW_WRITER_S:
        bars[f"cut within {SLOW_WRITER_S} s"] = row["slow_longest_s"] <= SLOW_WRITER_S
    yield with_verdict(row, bars)


def with_verdict(row: Row, bars: Mapping[str, bool]) -> Row:
    """Add to a row its bars, and those of all profiles."""
    common = {
        "health": row["health_p99_ms"][-1] <= HEALTH_P99_MS,
        "memory": row["peak_mib"] <= row["most_mib"],
        "answers": {*row["statuses"]} <= ANSWERS,
    }
    if row["late_calls"] is not None:
        common["no late call"] = row["late_calls"] == 0
    return row | {"bars": {**bars, **common}}


def p99_ms(latencies: Mapping[str, float] | None) -> float:
    return latencies["p99_ms"] if latencies else math.inf


def _load(subject: Subject, files: Sequence[str], **changes: object) -> OpenLoad:
    load = OpenLoad(subject.load_core, files, 1, subject.seconds, DEADLINE_MS)
    return replace(load, **changes)


PROFILES: Mapping[str, Callable[[Subject], Iterator[Row]]] = {
    "kept-alive": measure_kept_alive,
    "new connections": measure_new_connections,
    "mixed sizes": measure_mixed,
    "slow readers": measure_slow_readers,
    "slow writers": measure_slow_writers,
}
