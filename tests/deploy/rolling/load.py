"""Requests at a fixed rate by the default client, each answer compared with NumPy."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np

from rope_client import AsyncClient, RetryPolicy, RopeClientError
from service.oip.grpc.messages import METHODS, ModelInferRequest, ModelInferResponse

INFER = METHODS["ModelInfer"].path
THETA = 10_000.0
SHAPES = [(1, 1, 8, 64), (1, 16, 8, 64)]
"""Shapes of q. HAProxy can repeat a request of 2 KiB, and not one of 32 KiB."""


def rotated(q: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return q rotated in float64, layout half."""
    half = q.shape[-1] // 2
    angles = positions[:, None] * THETA ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = q[..., :half].astype(np.float64), q[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def inputs(number: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return different (q, positions, rotated q)."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(number):
        q = rng.standard_normal(SHAPES[i % 2], dtype=np.float32)
        positions = rng.integers(200, size=q.shape[1])
        found.append((q, positions, rotated(q, positions)))
    return found


INPUTS = inputs(32)


class Load:
    """Sends requests at a fixed rate, independent of the answers, until its context ends.

    Args:
        url: of HTTP.
        grpc_target: HOST:PORT of gRPC, for a tenth of the requests; None: HTTP only.
        rate: requests a second.
    """

    def __init__(self, url: str, grpc_target: str | None = None, rate: float = 200.0) -> None:
        self.outcomes: Counter[str] = Counter()
        self.num_repeated = 0
        """Number of attempts of the client after the first one of each call."""
        self.slowest_s = 0.0
        self.seconds = 0.0
        self._url, self._target, self._rate = url, grpc_target, rate
        self._kinds = [self._rotate, self._infer] if grpc_target else [self._rotate]
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()

    def _uniform(self) -> float:
        """Count an attempt of the client, which draws its pause before each."""
        self.num_repeated += 1
        return random.random()

    async def __aenter__(self) -> "Load":
        # the default settings; the policy of retries only counts
        self._client = AsyncClient(self._url, retry=RetryPolicy(uniform=self._uniform))
        self._channel = grpc.aio.insecure_channel(self._target) if self._target else None
        self._started = time.monotonic()
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._sending.cancel()
        self.seconds = time.monotonic() - self._started
        await asyncio.gather(*self._tasks)
        await self._client.aclose()
        if self._channel is not None:
            await self._channel.close()

    async def answers(self, number: int) -> None:
        """Wait until that many more requests were answered."""
        due = self.outcomes.total() + number
        while self.outcomes.total() < due:
            self._answered.clear()
            await self._answered.wait()

    async def _send(self) -> None:
        due, rng = time.monotonic(), random.Random(0)
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            send = rng.choices(self._kinds, [9, 1][: len(self._kinds)])[0]
            task = asyncio.create_task(self._record(send, *rng.choice(INPUTS)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _record(
        self,
        send: Callable[[np.ndarray, np.ndarray], Awaitable[np.ndarray]],
        q: np.ndarray,
        positions: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        kind = send.__name__.removeprefix("_")
        started = time.monotonic()
        try:
            answer = await send(q, positions)
            is_right = answer.shape == q.shape and np.allclose(answer, expected, atol=1e-4)
            outcome = "right" if is_right else "wrong"
        except (RopeClientError, grpc.aio.AioRpcError) as failure:
            outcome = " ".join(f"failed: {failure!r}".split())[:300]
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.outcomes[f"{kind} {outcome}"] += 1
        self._answered.set()

    async def _rotate(self, q: np.ndarray, positions: np.ndarray) -> np.ndarray:
        answer = await self._client.rotate(q, positions=positions, rope={"theta": THETA})
        assert answer.q is not None
        return np.asarray(answer.q)

    async def _infer(self, q: np.ndarray, positions: np.ndarray) -> np.ndarray:
        tensors = [("q", "FP32", q), ("positions", "INT64", positions[None].astype(np.int64))]
        request = ModelInferRequest(
            model_name="rope",
            raw_input_contents=[array.tobytes() for _, _, array in tensors],
        )
        for name, datatype, array in tensors:
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.parameters["theta"].double_param = THETA
        assert self._channel is not None
        data = await self._channel.unary_unary(INFER)(request.SerializeToString(), timeout=30)
        [output] = ModelInferResponse.FromString(data).raw_output_contents
        return np.frombuffer(output, np.float32).reshape(q.shape)

    def __str__(self) -> str:
        lines = [f"{number:7} {outcome}" for outcome, number in sorted(self.outcomes.items())]
        total = self.outcomes.total()
        lines.append(
            f"{total} requests in {self.seconds:.1f} s ({total / self.seconds:.0f}/s), "
            f"{self.num_repeated} repeated by the client, slowest {self.slowest_s:.2f} s"
        )
        return "\n".join(lines)
