"""A noisy tenant with ten times its part of the capacity, beside a quiet tenant with a fifth."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from benchmarks.open_load import Arrivals, OpenLoad, request_files
from benchmarks.overload_profiles import (
    DEADLINE_MS,
    KEPT_ALIVE,
    measure_capacity,
    p99_ms,
    with_verdict,
)
from benchmarks.overload_requests import exchange
from benchmarks.overload_subject import Subject
from benchmarks.table import Row

QUIET, NOISY = "quiet", "noisy"
"""Names of the tenants, which are their keys as well. Both have the same weight."""

QUIET_OF_CAPACITY = 0.2
QUIET_CONNECTIONS = 64
NOISY_OF_SHARE = 10
WARM_UP_S = 4.0


def write_keys(path: Path) -> None:
    """Write a keys file with both tenants."""
    tables = (
        f'[{name}]\nkeys = ["{sha256(name.encode()).hexdigest()}"]' for name in (QUIET, NOISY)
    )
    path.write_text("\n".join(tables))


def measure_tenants(subject: Subject) -> Iterator[Row]:
    """Yield rows of the quiet tenant alone and beside the noisy tenant, and of the noisy tenant."""
    capacity = measure_capacity(subject, key=QUIET)
    yield capacity
    peak = capacity["goodput"]
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                request_files([exchange(subject.server, DEADLINE_MS, key=name)])
            )
            for name in (QUIET, NOISY)
        }
        load = OpenLoad(
            subject.load_core,
            files[QUIET],
            QUIET_OF_CAPACITY * peak,
            subject.seconds,
            DEADLINE_MS,
            connections=QUIET_CONNECTIONS,
            warm_up_s=WARM_UP_S,
        )
        alone = subject.run("quiet tenant alone", load)
        yield with_verdict(alone, {})
        noise = replace(
            load,
            files=files[NOISY],
            rate=NOISY_OF_SHARE * peak / 2,
            connections=KEPT_ALIVE,
            warm_up_s=WARM_UP_S / 2,
            seed=1,
        )

        def run_noisy() -> Arrivals:
            time.sleep(WARM_UP_S / 2)  # the quiet tenant has opened its connections
            return noise.run(subject.server.port)

        with ThreadPoolExecutor() as pool:
            running = pool.submit(run_noisy)
            beside = subject.run("quiet tenant beside the noisy", load)
            noisy = running.result()
    bars = {
        "goodput >= 0.95 of alone": beside["goodput"] >= 0.95 * alone["goodput"],
        "p99 <= 2 x alone": p99_ms(beside["accepted"]) <= 2 * p99_ms(alone["accepted"]),
    }
    yield with_verdict(beside, bars)
    yield _noisy_row(noisy, noise)


def _noisy_row(arrivals: Arrivals, load: OpenLoad) -> Row:
    """Return the row of the noisy tenant; memory and health are in the row before."""
    return {
        "profile": "noisy",
        **asdict(arrivals),
        "offered_rate": arrivals.offered / load.seconds,
        "goodput": arrivals.in_deadline / load.seconds,
        "bars": {},
    }
