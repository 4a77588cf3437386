"""The service on the GPU: mixed calls, odd shapes, full memory, one and two runs in flight.

Responses are compared with the results that the library computes on the CPU.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import rope_core
from benchmarks.first_run import service_requests
from benchmarks.first_run.fake_driver import FakeDriver
from benchmarks.first_run.row import Row, failure, rows_of_cases
from benchmarks.first_run.service_api import Send, find_driver, rotator, running_service
from benchmarks.first_run.service_requests import Request
from benchmarks.gpu_cases import reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.sizes import Sizes
from rope_core import RopeConfig, Rotate

NUM_CLIENTS = 8
MAX_RETRIES = 100
RETRY_DELAY_S = 0.2
NUM_SAMPLES, ROTATIONS_PER_SAMPLE = 5, 16
SINGLE = "one run in flight"

SLACK = 4.0
"""Factor on the tolerance against float64: here both results, and the rotated queries and keys of
both, are rounded."""


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield rows of mixed calls, odd shapes, full memory, and runs in flight."""
    driver = find_driver(sizes)
    num_mixed, num_odd = (40, 6) if sizes.dry_run else (200, 30)
    start = time.perf_counter()
    with running_service(driver) as send:
        note = "" if sizes.dry_run else f"after {time.perf_counter() - start:.1f} s"
        yield Row(name="the service is ready", note=note)
        name = f"{num_mixed} mixed calls from {NUM_CLIENTS} threads"
        mixed = service_requests.mixed_requests(num_mixed)
        odd = service_requests.odd_requests(num_odd)
        yield _check_requests(name, send, mixed, sizes.dry_run)
        yield _check_requests(f"{num_odd} odd shapes", send, odd, sizes.dry_run)
        yield from _full_memory(sizes, driver, send)
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield large rotations from host to host, called by one thread and by two."""
    size = "64 MB" if not sizes.dry_run else "small"
    yield f"rotate {size} by the accelerator, one run in flight", partial(_inflight, sizes, 1)
    yield f"rotate {size} by the accelerator, two runs in flight", partial(_inflight, sizes, 2)


def _inflight(sizes: Sizes, num_inflight: int) -> Case:
    engine = rotator(sizes)
    # 64 MB in bfloat16 with the full sizes
    shape = (1, sizes.tokens // 2, sizes.heads[0], sizes.head_dim)
    inputs = [engine.pinned(shape) for _ in range(num_inflight)]

    def seconds(inputs: Sequence[Tensor]) -> float:
        def rotate(q: Tensor) -> None:
            for _ in range(ROTATIONS_PER_SAMPLE // len(inputs)):
                engine.rotate(q)

        with ThreadPoolExecutor(len(inputs)) as threads:
            start = time.perf_counter()
            list(threads.map(rotate, inputs))
            return (time.perf_counter() - start) / ROTATIONS_PER_SAMPLE

    def measure() -> dict[str, list[float]]:
        providers = {"ours": inputs} | ({SINGLE: inputs[:1]} if num_inflight > 1 else {})
        return {name: [seconds(qs) for _ in range(NUM_SAMPLES)] for name, qs in providers.items()}

    expected = reference.rotation([inputs[0][0]], torch.arange(shape[1]))
    run = lambda: [engine.rotate(q) for q in inputs]  # noqa: E731
    ours = Provider("ours", run, expected, lambda results: [results[0][0]])
    comparisons = []
    if num_inflight > 1:
        single = Provider(SINGLE, lambda: engine.rotate(inputs[0]))
        comparisons.append(Comparison(SINGLE, [(single, 1.0)], min_ratio=1.7))
    return Case(ours, comparisons, 2.0 * inputs[0].nbytes, "GB/s", measure=measure)


def _check_requests(name: str, send: Send, requests: Sequence[Request], dry_run: bool) -> Row:
    """Send requests from several threads; return a row with the largest error of the responses."""
    start = time.perf_counter()
    with ThreadPoolExecutor(NUM_CLIENTS) as threads:
        outcomes = [*threads.map(partial(_send_with_retries, send), requests)]
    duration = "" if dry_run else f" in {time.perf_counter() - start:.1f} s"
    if failures := [outcome.failure for outcome in outcomes if outcome.failure]:
        return failure(name, f"{len(failures)} of {len(requests)} wrong: {failures[0]}")
    note = f"all answered{duration}"
    if refused := sum(outcome.retries for outcome in outcomes):
        note += f", {refused} x 503 with Retry-After first"
    error = max(outcome.error for outcome in outcomes)
    return Row(name=name, error=error, verdict="right", note=note)


@dataclass(frozen=True, slots=True)
class _Outcome:
    error: float
    retries: int
    failure: str = ""


def _send_with_retries(send: Send, request: Request) -> _Outcome:
    """Send a request, again while the service is busy, and compare the response."""
    retries, response = 0, send(request.path, request.tensors, request.params)
    while response.retry and retries < MAX_RETRIES:
        time.sleep(RETRY_DELAY_S)
        retries, response = retries + 1, send(request.path, request.tensors, request.params)
    if response.status != 200:
        return _Outcome(0.0, retries, f"{request.path} {response.status} {response.code}")
    expected, dtype = request.expected(), next(iter(request.tensors.values())).dtype
    if response.tensors.keys() != expected.keys():
        return _Outcome(0.0, retries, f"{request.path} returns {', '.join(response.tensors)}")
    errors = []
    for name, tensor in expected.items():
        tolerance = SLACK * reference.ATTENTION_TOLERANCE[dtype]
        tolerance *= 1 + 4 * max(1, tensor.numel()) ** -0.5
        error, _ = reference.error(response.tensors[name], tensor.double())
        if not error <= tolerance:
            text = f"{request.path} {name}: relative error {error:.2g}, tolerance {tolerance:.2g}"
            return _Outcome(error, retries, text)
        errors.append(error)
    return _Outcome(max(errors), retries)


def _full_memory(sizes: Sizes, driver: Any, send: Send) -> Iterator[Row]:
    """Fill the device's memory: a call succeeds at 95 %, fails at 100 %, then succeeds again."""
    q = torch.randn(1, max(64, sizes.tokens // 4), sizes.heads[0], sizes.head_dim)
    call = Rotate(q, None, RopeConfig.of(sizes.head_dim))
    expected = lambda: service_requests.result_tensors(rope_core.rotate(call))  # noqa: E731
    request = Request("/v1/rotate", {"q": q}, {}, expected)
    with _filled(driver, 0.95):
        yield _check_requests("a call with memory filled to 95 %", send, [request], sizes.dry_run)
    with _filled(driver, 1.0):
        response = send(request.path, request.tensors, request.params)
    name, goal = "the same with no memory left", "503 device_memory"
    if (status := f"{response.status} {response.code}") == goal:
        yield Row(name=name, goal=goal, verdict="met")
    else:
        yield failure(name, f"{status}, not {goal}")
    yield _check_requests("the same with free memory again", send, [request], sizes.dry_run)


@contextmanager
def _filled(driver: Any, share: float) -> Iterator[None]:
    """Allocate device memory until `share` of it is in use."""
    if isinstance(driver, FakeDriver):
        driver.full = share == 1.0
        yield
        driver.full = False
        return
    torch.cuda.empty_cache()
    blocks, size = [], 2**33
    while size >= 2**21:
        free, total = torch.cuda.mem_get_info()
        if free - size >= (1 - share) * total:
            with suppress(torch.OutOfMemoryError):
                blocks.append(torch.empty(size, dtype=torch.uint8, device=driver.device))
                continue
        size //= 2
    yield
    blocks.clear()
    torch.cuda.empty_cache()
