"""Rows of the benchmark of sessions beside single steps: many rows, a prefill, forks, pages."""

import threading
import time
from statistics import median

import torch

from benchmarks import paged_decode, table
from benchmarks.servers import Server
from benchmarks.session_clients import Answer, HttpConnection, encode, http_request
from benchmarks.session_subjects import (
    MEDIA_TYPE,
    TOKEN_BYTES,
    Steps,
    Subject,
    check,
    keys_and_values,
    new_session,
    quantile_us,
    run_rounds,
    tokens,
)
from benchmarks.table import Row
from benchmarks.timing import time_interleaved

PREFILL_TOKENS = 65_536


class ManySteps(Subject):
    """`POST /v1/step`: a token of each of many rows, whose keys all are the same.

    Args:
        num_sessions: each has as many rows.
        num_rows: of all sessions.
        num_keys: of each row after the first step of a round.
        num_calls: of a round.
        http: sends them.
    """

    def __init__(
        self, num_sessions: int, num_rows: int, num_keys: int, num_calls: int, http: HttpConnection
    ) -> None:
        rows = f"{num_rows} rows of {num_sessions} session{'s' * (num_sessions > 1)}"
        super().__init__(f"/v1/step, {rows}, {num_keys} keys", num_calls)
        self._http, self._num_keys = http, num_keys
        more = {"max_tokens": num_keys + 64, "batch": num_rows // num_sessions}
        self._sessions = [new_session(http, num_keys - 1, **more) for _ in range(num_sessions)]
        token = tokens(1, 1)
        self._tensors = {name: x[0].repeat(num_rows, 1, 1) for name, x in token.items()}
        self._tensors["cu_seqlens"] = torch.arange(num_rows + 1)
        single = new_session(http, num_keys - 1)
        expected = http.post(f"/v1/sessions/{single}/step", token, expected_length=num_keys - 1)
        self.prepare()
        out = Answer(self.call(0)).tensors["out"]
        check(self.name, out, expected.tensors["out"][0].expand_as(out))
        self.delete(single)

    def prepare(self) -> None:
        """Encode the requests; sessions grow from round to round only by this round's calls."""
        length = self._num_keys - 1
        requests = []
        for session in self._sessions:
            path = f"/v1/sessions/{session}/truncate"
            self._http.json("POST", path, length=length)
        for number in range(self.num_calls):
            body = encode(
                self._tensors,
                sessions=self._sessions,
                expected_lengths=[length + number] * len(self._sessions),
            )
            requests.append(http_request("POST", "/v1/step", MEDIA_TYPE, body))
        self._requests = requests

    def call(self, number: int) -> bytes:
        """Step all sessions."""
        status, answer = self._http.call(self._requests[number])
        if status != 200 or b"409" in answer[: 2**15]:
            raise SystemExit(f"/v1/step: {status} {answer[:500]!r}")
        return answer

    def delete(self, *sessions: str) -> None:
        """Delete sessions; by default all of this subject."""
        for session in sessions or self._sessions:
            self._http.json("DELETE", f"/v1/sessions/{session}")


def print_rows(service: Server, num_rounds: int, *, quick: bool) -> list[Row]:
    """Print how long many rows in one request take, against one."""
    rows: list[Row] = []
    num_rows, num_calls = (4, 2) if quick else (64, 8)
    table.print_header(["call", "p10 us", "p50 us", "p99 us", "x one row, p10", "x one row, p50"])
    with HttpConnection(service.port) as http:
        for num_keys in (16,) if quick else (16, 128):
            kinds = ((1, 1), (1, num_rows), (num_rows, num_rows))
            subjects = [ManySteps(*kind, num_keys, num_calls, http) for kind in kinds]
            one = subjects[0]
            run_rounds(subjects, 1 if quick else num_rounds // 2)
            for subject in subjects:
                p10, p50, p99 = (quantile_us(subject, share) for share in (0.1, 0.5, 0.99))
                ratios = p10 / quantile_us(one, 0.1), p50 / quantile_us(one, 0.5)
                cells = (subject.name, p10, p50, p99, *ratios)
                table.print_row(cells)
                rows.append({"call": subject.name, "p50 us": p50, "x one row": ratios[1]})
                subject.delete()
    print("bar: 64 rows <= 3 x one row\n")
    return rows


class Prefill:
    """Appends many tokens to a session in one request, again and again, on a thread."""

    def __init__(self, service: Server, num_tokens: int) -> None:
        self._http = HttpConnection(service.port)
        self._session = new_session(self._http, 0, max_tokens=num_tokens)
        body = encode(keys_and_values(num_tokens))
        path = f"/v1/sessions/{self._session}"
        self._path, self._request = path, http_request("POST", f"{path}/append", MEDIA_TYPE, body)
        self._is_over = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        """Append until `stop`."""
        while not self._is_over.is_set():
            started = time.perf_counter()
            status, answer = self._http.call(self._request)
            self.seconds.append(time.perf_counter() - started)
            if status != 200:
                raise SystemExit(f"append: {status} {answer[:500]!r}")
            self._http.json("POST", f"{self._path}/truncate", length=0)

    def stop(self) -> None:
        """End the thread's work, after the append in progress."""
        self._is_over.set()

    def delete(self) -> None:
        """Delete the session."""
        self._http.json("DELETE", self._path)
        self._http.close()


def print_prefill(service: Server, num_rounds: int, *, quick: bool) -> list[Row]:
    """Print the times of steps alone, and beside appends of many tokens."""
    num_tokens, rounds = (2048, 1) if quick else (PREFILL_TOKENS, num_rounds)
    with HttpConnection(service.port) as http:
        steps = Steps("step, alone", 4 if quick else 32, 128, http, service.port)
        prefill = Prefill(service, num_tokens)
        run_rounds([steps], rounds)
        alone = [quantile_us(steps, share) for share in (0.5, 0.99)]
        steps.rounds.clear()
        thread = threading.Thread(target=prefill.run)
        thread.start()
        while len(steps.rounds) < rounds or len(prefill.seconds) < (1 if quick else 8):
            steps.run()
        prefill.stop()
        thread.join()
        beside = [quantile_us(steps, share) for share in (0.5, 0.99)]
        steps.delete()
        prefill.delete()
    table.print_header(["call", "p50 us", "p99 us", "x alone, p99"])
    table.print_row(("step, alone", *alone, 1.0))
    name = f"step, beside appends of {num_tokens:,} tokens"
    table.print_row((name, *beside, beside[1] / alone[1]))
    print(f"an append took {1e3 * median(prefill.seconds):.0f} ms (median of")
    print(f"{len(prefill.seconds)}), {num_tokens * TOKEN_BYTES >> 20} MiB; bar: <= 3 x alone\n")
    row: Row = {"call": name, "p99 us": beside[1], "x alone": beside[1] / alone[1]}
    return [row]


def print_fork(service: Server, num_rounds: int, *, quick: bool) -> list[Row]:
    """Print how long a fork takes, and how many bytes it holds."""
    num_tokens = 2048 if quick else PREFILL_TOKENS
    seconds, floors = [], []
    with HttpConnection(service.port) as http:
        source = new_session(http, num_tokens)
        own = before = http.json("GET", f"/v1/sessions/{source}")["bytes"]
        for _ in range(2 if quick else num_rounds):
            started = time.perf_counter()
            http.json("GET", f"/v1/sessions/{source}")
            floors.append(time.perf_counter() - started)
            started = time.perf_counter()
            fork = http.json("POST", f"/v1/sessions/{source}/fork", count=1)["ids"][0]
            seconds.append(time.perf_counter() - started)
            document = http.json("GET", f"/v1/sessions/{fork}")
            if document["length"] != [num_tokens] or document["bytes"]["own"]:
                raise SystemExit(f"a fork has {document}")
            own = document["bytes"]
            http.json("DELETE", f"/v1/sessions/{fork}")
        http.json("DELETE", f"/v1/sessions/{source}")
    ms = 1e3 * median(seconds)
    table.print_header(["call", "ms, median", "ms, fastest", "inspect, ms", "own bytes", "shared"])
    cells = (ms, 1e3 * min(seconds), 1e3 * median(floors), own["own"], own["shared"])
    table.print_row((f"fork of {num_tokens:,} tokens, HTTP", *cells))
    print(f"bar: <= 1 ms and no bytes; the session has {before['own']:,}\n")
    row: Row = {"call": "fork", "ms": ms, "own bytes": own["own"]}
    return [row]


def print_pages(num_rounds: int, *, quick: bool) -> list[Row]:
    """Print decode over pages against contiguous memory; see `benchmarks.paged_decode`."""
    rows: list[Row] = []
    num_keys = 128 if quick else 8192
    table.print_header(["decode over pages", "us", "contiguous us", "x", "x of medians", "bar"])
    for dtype, bar in ((torch.float32, 1.15), (torch.bfloat16, 1.5)):
        calls = paged_decode.Steps(1, num_keys, dtype).calls()
        floor = paged_decode.floor(num_keys, dtype)
        runs = {"step": lambda calls=calls: paged_decode.run_layers(calls), "floor": floor}
        times = time_interleaved(runs, 2 if quick else num_rounds // 2, 0.001 if quick else 0.1)
        step, alone = times["step"], times["floor"]
        ratio = step.fastest / alone.fastest
        name = f"{num_keys:,} keys, {str(dtype)[6:]}"
        cells = (1e6 * step.fastest, 1e6 * alone.fastest, ratio, step.median / alone.median, bar)
        table.print_row((name, *cells))
        rows.append({"call": name, "x": ratio})
    return rows
