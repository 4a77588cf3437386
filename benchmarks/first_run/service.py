"""The service in this process on the real driver: all that touches its programming interface.

Its answers over HTTP are compared with what the library computes on the CPU.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import rope_core
from benchmarks.first_run.row import Row, failure, rows_of_cases
from benchmarks.first_run.stand_in import StandIn
from benchmarks.gpu_cases import truth
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.packages import Missing
from benchmarks.gpu_cases.sizes import Sizes
from rope_core import Attend, AttentionConfig, RopeConfig, Rotate

CLIENTS = 8
TRIES = 100
RETRY_S = 0.2
TIMEOUT_S = 40.0
POLL_S = 0.05
END_S = 5.0
ROUNDS, RUNS = 5, 16
"""Samples of a measurement of lanes, and rotations of each."""

SLACK = 4.0
"""How many times a bar against float64 two answers may be apart: both are rounded, and so are the
rotated queries and keys of each."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the tensors that the library answers to it on the CPU."""

    path: str
    tensors: Mapping[str, Tensor]
    params: Mapping[str, object]
    expected: Callable[[], Mapping[str, Tensor]]


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield rows of mixed calls, odd shapes, memory that is full, and lanes."""
    driver = _driver(sizes)
    count, odd = (40, 6) if sizes.dry else (200, 30)
    start = time.perf_counter()
    with _running(driver) as ask:
        took = "" if sizes.dry else f"after {time.perf_counter() - start:.1f} s"
        yield Row(name="the service is ready", note=took)
        yield _asked(f"{count} mixed calls from {CLIENTS} threads", ask, _mixed(count), sizes.dry)
        yield _asked(f"{odd} odd shapes", ask, _odd(odd), sizes.dry)
        yield from _full(sizes, driver, ask)
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield large rotations from host to host, by one thread and by two."""
    size = "64 MB" if not sizes.dry else "small"
    yield f"rotate {size} by the accelerator, one lane", partial(_lanes, sizes, 1)
    yield f"rotate {size} by the accelerator, two lanes", partial(_lanes, sizes, 2)


def _driver(sizes: Sizes) -> Any:
    try:
        from service.device import find_driver
    except ImportError as why:
        raise Missing(f"the service needs its dependencies: {why}") from None
    return StandIn() if sizes.dry else find_driver("cuda")


@cache
def _service(sizes: Sizes) -> Any:
    driver = _driver(sizes)
    from service.app import make_service
    from service.life import Life
    from service.settings import Settings

    service, _ = make_service(Settings(log_level="warning"), Life(), driver)
    return service


def _lanes(sizes: Sizes, lanes: int) -> Case:
    service = _service(sizes)
    heads, width = sizes.heads[0], sizes.head_dim
    shape = (1, sizes.tokens // 2, heads, width)  # 64 MB in bfloat16 where sizes are full
    num_bytes = torch.Size(shape).numel() * 2
    inputs = []
    for _ in range(lanes):
        q = torch.frombuffer(service.slabs.lease(num_bytes), dtype=torch.bfloat16).view(shape)
        inputs.append(q.copy_(torch.randn(shape)))
    rope = RopeConfig.of(width)

    def one(q: Tensor) -> Tensor:
        return service.engine.run([service.engine.job(Rotate(q, None, rope))]).results[0].q

    def many(inputs: Sequence[Tensor]) -> float:
        def again(q: Tensor) -> None:
            for _ in range(RUNS // len(inputs)):
                one(q)

        with ThreadPoolExecutor(len(inputs)) as threads:
            start = time.perf_counter()
            list(threads.map(again, inputs))
            return (time.perf_counter() - start) / RUNS

    def measure() -> dict[str, list[float]]:
        sides = {"own": inputs} if lanes == 1 else {"own": inputs, "one lane": inputs[:1]}
        return {name: [many(qs) for _ in range(ROUNDS)] for name, qs in sides.items()}

    told = truth.rotation([inputs[0][0]], torch.arange(shape[1]))
    own = Side("own", lambda: [one(q) for q in inputs], told, lambda found: [found[0][0]])
    alone = Side("one lane", lambda: one(inputs[0]))
    over = [] if lanes == 1 else [Over("one lane", [(alone, 1.0)], least=1.7)]
    return Case(own, over, 2.0 * num_bytes, "GB/s", measure=measure)


Ask = Callable[[str, Mapping[str, Tensor], Mapping[str, object]], Any]
"""Sends a request from any thread, and returns the response."""


@contextmanager
def _running(driver: object) -> Iterator[Ask]:
    """Run the application in an event loop of another thread."""
    import httpx

    from service.app import create_app
    from service.life import Life
    from service.settings import Settings
    from service.wire import Message
    from service.wire import safetensors as codec

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait_for(coroutine: Any, timeout_s: float = TIMEOUT_S) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout_s)

    async def start() -> tuple[Any, httpx.AsyncClient]:
        app = create_app(Settings(log_level="warning"), Life(), driver)
        lifespan = app.app.router.lifespan_context(app.app)
        await lifespan.__aenter__()
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://service",
            timeout=TIMEOUT_S,
        )
        return lifespan, client

    def ask(path: str, tensors: Mapping[str, Tensor], params: Mapping[str, object]) -> Any:
        body = b"".join(codec.encode(Message(dict(tensors), json.dumps(params).encode())))
        headers = {"content-type": codec.media_type}
        return wait_for(client.post(path, content=body, headers=headers))

    lifespan, client = wait_for(start())
    while wait_for(client.get("/readyz")).status_code != 200:
        time.sleep(POLL_S)
    try:
        yield ask
    finally:
        with suppress(Exception):
            wait_for(client.aclose(), END_S)
            wait_for(lifespan.__aexit__(None, None, None), END_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _asked(name: str, ask: Ask, requests: Sequence[Request], dry: bool) -> Row:
    """Send requests from several threads, and compare their answers."""
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        outcomes = [*threads.map(partial(_one, ask), requests)]
    took = "" if dry else f" in {time.perf_counter() - start:.1f} s"
    if wrong := [why for _, _, why in outcomes if why]:
        return failure(name, f"{len(wrong)} of {len(requests)} wrong: {wrong[0]}")
    note = f"all answered{took}"
    if refused := sum(tries for _, tries, _ in outcomes):
        note += f", {refused} x 503 with Retry-After first"
    error = max(error for error, _, _ in outcomes)
    return Row(name=name, error=error, verdict="right", note=note)


def _one(ask: Ask, request: Request) -> tuple[float, int, str]:
    """Return how far off an answer is, how often it was refused for now, and what is wrong."""
    from service.wire import safetensors as codec

    tries, response = 0, ask(request.path, request.tensors, request.params)
    while response.status_code == 503 and "retry-after" in response.headers and tries < TRIES:
        time.sleep(RETRY_S)
        tries, response = tries + 1, ask(request.path, request.tensors, request.params)
    if response.status_code != 200:
        return 0.0, tries, f"{request.path} {response.status_code} {response.text[:200]}"
    answer, expected = codec.decode(response.content).tensors, request.expected()
    if answer.keys() != expected.keys():
        return 0.0, tries, f"{request.path} answers {', '.join(answer)}"
    errors, dtype = [], next(iter(request.tensors.values())).dtype
    for tensor_name, tensor in expected.items():
        bar = SLACK * truth.ATTENDED[dtype] * (1 + 4 * max(1, tensor.numel()) ** -0.5)
        errors.append(truth.error(answer[tensor_name], tensor.double())[0])
        if not errors[-1] <= bar:
            why = f"{request.path} {tensor_name} off by {errors[-1]:.2g}, not {bar:.2g}"
            return errors[-1], tries, why
    return max(errors), tries, ""


def _mixed(count: int) -> list[Request]:
    rng = random.Random(0)
    return [_request(rng, rng.choice((64, 128)), rng.choice((1, 2, 4)), None) for _ in range(count)]


def _odd(count: int) -> list[Request]:
    rng = random.Random(1)
    windows = (None, 7)
    return [
        _request(rng, rng.randrange(40, 122, 2), rng.randint(1, 5), rng.choice(windows))
        for _ in range(count)
    ]


def _request(rng: random.Random, width: int, group: int, window: int | None) -> Request:
    """Return a small rotation or attention of random length and dtype."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    tokens, rope = rng.randint(1, 48), RopeConfig.of(width)
    shapes = [(1, tokens, heads, width) for heads in (2 * group, 2, 2)]
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    if rng.random() < 0.3:
        call = Rotate(q, k, rope)
        return Request("/v1/rotate", {"q": q, "k": k}, {}, lambda: _named(rope_core.rotate(call)))
    attend = Attend(q, k, v, rope, AttentionConfig(window=window), return_lse=True)
    params = {"return_lse": True} | ({"window": window} if window else {})
    expected = lambda: _named(rope_core.attend(attend))  # noqa: E731
    return Request("/v1/attention", {"q": q, "k": k, "v": v}, params, expected)


def _named(result: Any) -> dict[str, Tensor]:
    found = ((name, getattr(result, name, None)) for name in ("q", "k", "out", "lse"))
    return {name: tensor for name, tensor in found if tensor is not None}


def _full(sizes: Sizes, driver: Any, ask: Ask) -> Iterator[Row]:
    """Fill the device's memory: to 95 % all goes on, beyond it a call is refused, then right."""
    q = torch.randn(1, max(64, sizes.tokens // 4), sizes.heads[0], sizes.head_dim)
    call = Rotate(q, None, RopeConfig.of(sizes.head_dim))
    request = Request("/v1/rotate", {"q": q}, {}, lambda: _named(rope_core.rotate(call)))
    with _filled(driver, 0.95):
        yield _asked("a call where memory is filled to 95 %", ask, [request], sizes.dry)
    with _filled(driver, 1.0):
        response = ask(request.path, request.tensors, request.params)
    name = "the same where no memory is left"
    if response.status_code == 503 and response.json()["code"] == "device_memory":
        yield Row(name=name, goal="503 device_memory", verdict="met")
    else:
        yield failure(name, f"{response.status_code}, not 503: {response.content[:100]!r}")
    yield _asked("the same where memory is free again", ask, [request], sizes.dry)


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
        if free - size < (1 - share) * total:
            size //= 2
            continue
        with suppress(torch.OutOfMemoryError):
            held.append(torch.empty(size, dtype=torch.uint8, device=driver.device))
            continue
        size //= 2
    yield
    held.clear()
    torch.cuda.empty_cache()
