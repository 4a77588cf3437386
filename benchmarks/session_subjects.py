"""What the benchmark of sessions times: steps over a stream, over HTTP, and in this process."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.servers import Server
from benchmarks.session_clients import (
    Answer,
    HttpConnection,
    WebSocketConnection,
    encode,
    http_request,
    random_tokens,
    websocket_frame,
)
from rope_core.config import AttentionConfig, RopeConfig
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig, KVGroup
from rope_core.kvcache.run import LayerInput, run_layers
from service.wire import safetensors_codec

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
TOKEN_BYTES = 2 * KV_HEADS * HEAD_DIM * 2
"""Of k and v of a token in a layer."""

THETA = 500_000.0
ROPE = {"theta": THETA}
CONFIGURATION = {
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rope": ROPE,
    "dtype": "bfloat16",
}
MEDIA_TYPE = safetensors_codec.media_type
PAUSE_S = 5e-3
"""Before a round: a busy machine runs those first that have not run for a while."""

TOLERANCE = 2e-2
"""Between answers of other orders of sums, in bfloat16."""


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Run this thread on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tokens(num_tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Return q, k and v of tokens, bfloat16 `[1, tokens, heads, 128]`."""
    return random_tokens(num_tokens, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, seed=seed)


def keys_and_values(num_tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Return k and v of tokens."""
    return {name: x for name, x in tokens(num_tokens, seed).items() if name != "q"}


def new_session(http: HttpConnection, num_tokens: int, seed: int = 0, **more: Any) -> str:
    """Create a session that has tokens, and return its id."""
    session: str = http.json("POST", "/v1/sessions", **CONFIGURATION | more)["id"]
    if num_tokens:
        batch = more.get("batch", 1)
        first = {
            name: x.repeat(batch, 1, 1, 1) for name, x in keys_and_values(num_tokens, seed).items()
        }
        http.post(f"/v1/sessions/{session}/append", first)
    return session


def check(what: str, actual: Tensor, expected: Tensor) -> None:
    """Compare an answer with another. Raises SystemExit: nothing is timed then."""
    error = (actual.float() - expected.float()).abs().max().item()
    if actual.shape != expected.shape or not error <= TOLERANCE:
        raise SystemExit(f"{what}: wrong, so not timed: it differs by {error:.2g}")


class Subject(ABC):
    """Calls that are timed one by one."""

    server: Server | None = None
    """Whose processor time counts with that of this thread."""

    def __init__(self, name: str, num_calls: int) -> None:
        self.name = name
        self.num_calls = num_calls
        """Calls of a round."""
        self.rounds: list[list[float]] = []
        """Seconds of each call, by round."""
        self.cpu_s: list[float] = []
        """Processor time of a call, by round."""

    def prepare(self) -> None:  # noqa: B027 - most subjects are ready
        """Make ready for a round; not timed."""

    @abstractmethod
    def call(self, number: int) -> object:
        """Make a call of a round."""

    def run(self) -> None:
        """Time a round."""
        self.prepare()
        time.sleep(PAUSE_S)
        times, clock, call = [], time.perf_counter, self.call
        cpu_s = self._run_s()
        for number in range(self.num_calls):
            started = clock()
            call(number)
            times.append(clock() - started)
        self.cpu_s.append((self._run_s() - cpu_s) / self.num_calls)
        self.rounds.append(times)

    def _run_s(self) -> float:
        return time.thread_time() + (self.server.run_s() if self.server is not None else 0.0)


class Echo(Subject):
    """A message that comes back, as long as an answer, over HTTP or a WebSocket."""

    def __init__(self, name: str, num_calls: int, connection: Any, request: bytes) -> None:
        super().__init__(name, num_calls)
        self._connection, self._request = connection, request

    def call(self, number: int) -> object:
        """Send the message."""
        return self._connection.call(self._request)


class Steps(Subject):
    """Steps of one token; the last of a round makes `num_keys` keys.

    Args:
        name: for the table.
        num_calls: steps of a round.
        num_keys: of the last step of a round.
        http: for what is not timed.
        stream: sends the steps; None: over HTTP.
        seed: of the keys.
    """

    def __init__(
        self,
        name: str,
        num_calls: int,
        num_keys: int,
        http: HttpConnection,
        stream_port: int | None,
        seed: int = 0,
    ) -> None:
        super().__init__(name, num_calls)
        self._http, self._start = http, num_keys - num_calls
        self._token = tokens(1, seed + 1)
        self.session = new_session(http, self._start, seed, max_tokens=num_keys + 64)
        self._path = f"/v1/sessions/{self.session}"
        self._stream = None
        if stream_port is not None:
            self._stream = WebSocketConnection(stream_port, f"{self._path}/stream")
        self._generation = 0
        self.requests: list[bytes] = []
        self.last = b""

    def prepare(self) -> None:
        """Go back to the first length, and encode the requests."""
        path = f"{self._path}/truncate"
        answer = self._http.json("POST", path, length=self._start)
        self._generation = answer["generation"]
        self.requests = [self._encode(self._start + i) for i in range(self.num_calls)]

    def call(self, number: int) -> object:
        """Make a step."""
        if self._stream is not None:
            self.last = self._stream.call(self.requests[number])
            return None
        status, self.last = self._http.call(self.requests[number])
        if status != 200:
            raise SystemExit(f"a step has failed: {self.last!r}")
        return None

    def check(self, expected: Tensor) -> int:
        """Compare the last answer of a round; return its length in bytes."""
        self.prepare()
        for number in range(self.num_calls):
            self.call(number)
        check(self.name, Answer(self.last).tensors["out"], expected)
        return len(self.last)

    def delete(self) -> None:
        """Delete the session."""
        self._http.json("DELETE", self._path)
        if self._stream is not None:
            self._stream.close()

    def _encode(self, length: int) -> bytes:
        guard = {"expected_length": length, "expected_generation": self._generation}
        if self._stream is None:
            body = encode(self._token, layer=0, **guard)
            return http_request("POST", f"{self._path}/step", MEDIA_TYPE, body)
        return websocket_frame(encode(self._token, op="step", seq=length, layer=0, **guard))


class StepsHere(Subject):
    """The same steps in this process: plan, run, commit."""

    def __init__(self, name: str, num_calls: int, num_keys: int, seed: int = 0) -> None:
        super().__init__(name, num_calls)
        group = KVGroup(
            layers=(0,),
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            value_dim=HEAD_DIM,
            rope=RopeConfig.of(HEAD_DIM, theta=THETA),
            attention=AttentionConfig(),
        )
        config = KVConfig(groups=(group,), dtype=torch.bfloat16)
        arena = Arena(4 * num_keys * TOKEN_BYTES + 2**22, torch.device("cpu"), page_tokens=64)
        self._cache = KVCache(config, arena, max_tokens=num_keys + 64)
        self._start = num_keys - num_calls
        self._token = {name: x[0] for name, x in tokens(1, seed + 1).items()}
        if self._start:
            first = keys_and_values(self._start, seed)
            pending = self._cache.plan([0], num_new=[self._start])
            run_layers([LayerInput(pending.layers[0], None, first["k"][0], first["v"][0])])
            self._cache.commit(pending)
        self._out: Tensor | None = None

    def prepare(self) -> None:
        """Go back to the first length."""
        self._cache.truncate(self._start)

    def call(self, number: int) -> object:
        """Make a step."""
        pending = self._cache.plan([0], num_new=[1], num_queries=[1])
        x = self._token
        (output,) = run_layers([LayerInput(pending.layers[0], x["q"], x["k"], x["v"])])
        self._cache.commit(pending)
        self._out = output.out
        return output

    def check(self, expected: Tensor) -> None:
        """Compare the last answer of a round."""
        self.prepare()
        for number in range(self.num_calls):
            self.call(number)
        assert self._out is not None, "a step answers"
        check(self.name, self._out[None], expected)


class Stateless(Subject):
    """A call without a session, which sends all keys."""

    def __init__(self, num_calls: int, num_steps: int, num_keys: int, http: HttpConnection) -> None:
        super().__init__("stateless", num_calls)
        self._http = http
        start = num_keys - num_steps
        first, token = keys_and_values(start), tokens(1, 1)
        inputs = {
            "q": token["q"],
            **{
                name: torch.cat([first[name], *[token[name]] * num_steps], dim=1)
                for name in ("k", "v")
            },
            "q_positions": torch.tensor([num_keys - 1]),
            "k_positions": torch.arange(num_keys),
        }
        body = encode(inputs, rope=ROPE)
        self._request = http_request("POST", "/v1/attention", MEDIA_TYPE, body)
        self.out = Answer(self.call(0)).tensors["out"]

    def call(self, number: int) -> bytes:
        """Send all keys."""
        status, answer = self._http.call(self._request)
        if status != 200:
            raise SystemExit(f"/v1/attention: {answer[:500]!r}")
        return answer


def quantile_us(subject: Subject, share: float) -> float:
    """Return the time in microseconds below which this share of all calls was."""
    seconds = sorted(each for times in subject.rounds for each in times)
    return 1e6 * seconds[round(share * (len(seconds) - 1))]


def run_rounds(subjects: Sequence[Subject], num_rounds: int) -> None:
    """Time all subjects in turn; the first round does not count."""
    for number in range(num_rounds + 1):
        for subject in subjects:
            subject.run()
            if not number:
                subject.rounds.clear()
                subject.cpu_s.clear()
