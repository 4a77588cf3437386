"""The service on the real driver: mixed calls, odd shapes, full memory, one lane and two.

Its answers over HTTP are compared with what the library computes on the CPU.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

import rope_core
from benchmarks.first_run import service_requests
from benchmarks.first_run.fake_driver import StandIn
from benchmarks.first_run.row import Row, failure, rows_of_cases
from benchmarks.first_run.service_api import Ask, driver_of, rotator, running
from benchmarks.first_run.service_requests import Request
from benchmarks.gpu_cases import reference
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes
from rope_core import RopeConfig, Rotate

CLIENTS = 8
TRIES = 100
RETRY_S = 0.2
ROUNDS, RUNS = 5, 16
"""Samples of a measurement of lanes, and rotations of each."""

SLACK = 4.0
"""Two answers may differ by so many times the bar against float64: both are rounded, and so are the
rotated queries and keys of each."""


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield rows of mixed calls, odd shapes, memory that is full, and lanes."""
    driver = driver_of(sizes)
    count, odd = (40, 6) if sizes.dry else (200, 30)
    start = time.perf_counter()
    with running(driver) as ask:
        took = "" if sizes.dry else f"after {time.perf_counter() - start:.1f} s"
        yield Row(name="the service is ready", note=took)
        name = f"{count} mixed calls from {CLIENTS} threads"
        yield _requests(name, ask, service_requests.mixed(count), sizes.dry)
        yield _requests(f"{odd} odd shapes", ask, service_requests.odd(odd), sizes.dry)
        yield from _full_memory(sizes, driver, ask)
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield large rotations from host to host, by one thread and by two."""
    size = "64 MB" if not sizes.dry else "small"
    yield f"rotate {size} by the accelerator, one lane", partial(_lanes, sizes, 1)
    yield f"rotate {size} by the accelerator, two lanes", partial(_lanes, sizes, 2)


def _lanes(sizes: Sizes, lanes: int) -> Case:
    engine = rotator(sizes)
    # 64 MB in bfloat16 where sizes are full
    shape = (1, sizes.tokens // 2, sizes.heads[0], sizes.head_dim)
    inputs = [engine.pinned(shape) for _ in range(lanes)]

    def seconds(inputs: Sequence[Tensor]) -> float:
        def again(q: Tensor) -> None:
            for _ in range(RUNS // len(inputs)):
                engine.rotate(q)

        with ThreadPoolExecutor(len(inputs)) as threads:
            start = time.perf_counter()
            list(threads.map(again, inputs))
            return (time.perf_counter() - start) / RUNS

    def measure() -> dict[str, list[float]]:
        sides = {"own": inputs} if lanes == 1 else {"own": inputs, "one lane": inputs[:1]}
        return {name: [seconds(qs) for _ in range(ROUNDS)] for name, qs in sides.items()}

    expected = reference.rotation([inputs[0][0]], torch.arange(shape[1]))
    run = lambda: [engine.rotate(q) for q in inputs]  # noqa: E731
    own = Side("own", run, expected, lambda answer: [answer[0][0]])
    alone = Side("one lane", lambda: engine.rotate(inputs[0]))
    over = [] if lanes == 1 else [Over("one lane", [(alone, 1.0)], least=1.7)]
    return Case(own, over, 2.0 * inputs[0].nbytes, "GB/s", measure=measure)


def _requests(name: str, ask: Ask, requests: Sequence[Request], dry: bool) -> Row:
    """Send requests from several threads, and return a row of how their answers compare."""
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        outcomes = [*threads.map(partial(_ask_until_answered, ask), requests)]
    took = "" if dry else f" in {time.perf_counter() - start:.1f} s"
    if wrong := [why for _, _, why in outcomes if why]:
        return failure(name, f"{len(wrong)} of {len(requests)} wrong: {wrong[0]}")
    note = f"all answered{took}"
    if refused := sum(tries for _, tries, _ in outcomes):
        note += f", {refused} x 503 with Retry-After first"
    error = max(error for error, _, _ in outcomes)
    return Row(name=name, error=error, verdict="right", note=note)


def _ask_until_answered(ask: Ask, request: Request) -> tuple[float, int, str]:
    """Return the error of an answer, how often the service was busy, and what is wrong."""
    tries, reply = 0, ask(request.path, request.tensors, request.params)
    while reply.retry and tries < TRIES:
        time.sleep(RETRY_S)
        tries, reply = tries + 1, ask(request.path, request.tensors, request.params)
    if reply.status != 200:
        return 0.0, tries, f"{request.path} {reply.status} {reply.code}"
    expected, dtype = request.expected(), next(iter(request.tensors.values())).dtype
    if reply.tensors.keys() != expected.keys():
        return 0.0, tries, f"{request.path} answers {', '.join(reply.tensors)}"
    errors = []
    for name, tensor in expected.items():
        bar = SLACK * reference.ATTENDED[dtype] * (1 + 4 * max(1, tensor.numel()) ** -0.5)
        errors.append(reference.error(reply.tensors[name], tensor.double())[0])
        if not errors[-1] <= bar:
            why = f"{request.path} {name} off by {errors[-1]:.2g}, not {bar:.2g}"
            return errors[-1], tries, why
    return max(errors), tries, ""


def _full_memory(sizes: Sizes, driver: Any, ask: Ask) -> Iterator[Row]:
    """Fill the device's memory: a call succeeds at 95 %, is refused at 100 %, then succeeds."""
    q = torch.randn(1, max(64, sizes.tokens // 4), sizes.heads[0], sizes.head_dim)
    call = Rotate(q, None, RopeConfig.of(sizes.head_dim))
    expected = lambda: service_requests.named(rope_core.rotate(call))  # noqa: E731
    request = Request("/v1/rotate", {"q": q}, {}, expected)
    with _filled(driver, 0.95):
        yield _requests("a call where memory is filled to 95 %", ask, [request], sizes.dry)
    with _filled(driver, 1.0):
        reply = ask(request.path, request.tensors, request.params)
    name, goal = "the same where no memory is left", "503 device_memory"
    if (answered := f"{reply.status} {reply.code}") == goal:
        yield Row(name=name, goal=goal, verdict="met")
    else:
        yield failure(name, f"{answered}, not {goal}")
    yield _requests("the same where memory is free again", ask, [request], sizes.dry)


@contextmanager
def _filled(driver: Any, share: float) -> Iterator[None]:
    """Take memory of the device until `share` of it is in use."""
    if isinstance(driver, StandIn):
        driver.full = share == 1.0
        yield
        driver.full = False
        return
    torch.cuda.empty_cache()
    held, size = [], 2**33
    while size >= 2**21:
        free, total = torch.cuda.mem_get_info()
        if free - size >= (1 - share) * total:
            with suppress(torch.OutOfMemoryError):
                held.append(torch.empty(size, dtype=torch.uint8, device=driver.device))
                continue
        size //= 2
    yield
    held.clear()
    torch.cuda.empty_cache()
