"""Counts every answered request of every protocol, and writes one log line for each."""

import json
import logging
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from prometheus_client import Counter

from service.errors import printable
from service.observability import ids, logs
from service.observability.histogram import Histogram
from service.observability.metrics import Metrics
from service.observability.recent import BOUNDS, NUM_BUCKETS

MAX_TENSORS = 8
"""Most tensors in the line of a failed request."""

MAX_SHAPE = 128
"""Longest description of a tensor in that line, in characters."""

GRPC_SERVER_ERRORS = frozenset(
    ("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN")
)
"""The statuses of gRPC that stand for 500 and above."""

CLIENT_LEFT_CODE = "client_left"
"""Code of a request that has no answer, because its client left: nothing refused it."""

_STREAMS = frozenset(
    ("/inference.GRPCInferenceService/ModelStreamInfer", "/grpc.health.v1.Health/Watch")
)
"""Routes whose requests last as long as their clients like."""

_SWITCHING_PROTOCOLS = 101

_START = '{"time":%r,"level":"%s","message":"request","request_id":"'


class Record(NamedTuple):
    """An answered request."""

    request_id: str
    method: str
    """HTTP method, or "gRPC"."""
    path: str
    """The path that the client wrote."""
    route: str
    """The path's name in metrics."""
    status: int | str
    seconds: float
    """From the request's header to the end of its answer."""
    headers: Mapping[bytes, bytes]
    """Of the request; `traceparent` is read."""
    backend_call: tuple[str, str] | None = None
    """Operation and backend of a call that was computed, where nothing else counts it."""
    failure: Mapping[str, object] | None = None
    """Further fields of the line of a failed request; None: the request has not failed."""


class RequestLog:
    """Metrics, the rows of the last seconds, and log lines of requests.

    Args:
        metrics: where requests are counted.
        level: lowest level that is logged. Requests have `info`, and failures of the service, which
            are those with a status of 500 and above, have `warning`.
        quiet: routes that are counted in the metrics, but neither logged nor in the rows of the
            last seconds: machines call them every few seconds.
    """

    def __init__(self, metrics: Metrics, *, level: str, quiet: frozenset[str]) -> None:
        self._metrics = metrics
        self._recent = metrics.recent
        number = logging.getLevelNamesMapping()[level.upper()]
        self._logs_requests = number <= logging.INFO
        self._logs_failures = number <= logging.WARNING
        self._quiet = quiet
        self._labelled = lru_cache(maxsize=512)(self._label)

    def record(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        route: str,
        status: int | str,
        started: float,
        headers: Mapping[bytes, bytes],
        failure: Mapping[str, object] | None = None,
    ) -> None:
        """Record an answered request.

        Args:
            request_id: its identifier.
            method: HTTP method, or "gRPC".
            path: the path that the client wrote.
            route: the path's name in metrics.
            status: of the answer.
            started: time of `time.perf_counter` at the request's header.
            headers: of the request; `traceparent` is read.
            failure: further fields of the line, if the request has failed.
        """
        seconds = time.perf_counter() - started
        self.record_all(
            [Record(request_id, method, path, route, status, seconds, headers, None, failure)]
        )

    def record_all(self, records: Sequence[Record]) -> None:
        """Record answered requests; their lines are written at once."""
        seconds: dict[tuple[str, int | str, tuple[str, str] | None], list[float]] = {}
        for _, _, _, route, status, request_seconds, _, backend_call, failure in records:
            if failure is not None and "code" in failure:
                self._refuse(route, status, str(failure["code"]))
            labels = route, status, backend_call  # most requests of a turn have the same
            if labels in seconds:
                seconds[labels].append(request_seconds)
            else:
                seconds[labels] = [request_seconds]
        recent = self._recent
        if (monotonic := time.monotonic()) >= recent.end:
            recent.advance(monotonic)
        second = recent.current
        for (route, status, backend_call), values in seconds.items():
            counter, histogram, bucket = self._labelled(route, status)
            counter.inc(len(values))
            histogram.observe_all(values)
            if backend_call is not None:
                self._metrics.backend_calls(*backend_call).inc(len(values))
            if bucket is None:
                continue
            second.statuses[status] = second.statuses.get(status, 0) + len(values)
            if bucket < 0:
                continue
            latency = second.latency
            for value in values:
                key = bucket + bisect_left(BOUNDS, value)
                latency[key] = latency.get(key, 0) + 1
                second.request_s += value
        now = time.time()
        if self._logs_requests:
            start = _START % (now, "info")
            logs.output.write(
                [
                    start + _line(r) if r.failure is None else _failure_line(now, r)
                    for r in records
                    if r.route not in self._quiet
                ]
            )
        elif self._logs_failures:
            logs.output.write(
                [
                    _failure_line(now, r)
                    for r in records
                    if r.route not in self._quiet and is_server_error(r.status)
                ]
            )

    def _label(self, route: str, status: int | str) -> tuple[Counter, Histogram, int | None]:
        """Return where requests are counted: counter, histogram, and first bucket of the route.

        The bucket is -1 if durations are not counted, None if the rows do not have the requests.
        """
        metrics, bucket = self._metrics, None
        if route not in self._quiet:
            number = self._recent.route_number(route)
            is_stream = route in _STREAMS or status == _SWITCHING_PROTOCOLS
            bucket = -1 if is_stream or number is None else NUM_BUCKETS * number
        counter = metrics.requests.labels(route, str(status))
        return counter, metrics.request_seconds.labels(route), bucket

    def _refuse(self, route: str, status: int | str, code: str) -> None:
        if code != CLIENT_LEFT_CODE and route not in self._quiet:
            self._metrics.count_refusal(code, status)


def is_server_error(status: int | str) -> bool:
    """Return whether a status means that the service has failed, and not the client."""
    return status in GRPC_SERVER_ERRORS if isinstance(status, str) else status >= 500


def describe_shapes(tensors: Iterable[tuple[str, object, Sequence[int]]]) -> dict[str, str]:
    """Return dtype and shape of each tensor, for the line of a failed request.

    Args:
        tensors: name, dtype and shape of each tensor; at most `MAX_TENSORS` are described.
    """
    return {
        printable(name): printable(f"{str(dtype).removeprefix('torch.')}{[*shape]}", MAX_SHAPE)
        for name, dtype, shape in islice(tensors, MAX_TENSORS)
    }


def _failure_line(now: float, record: Record) -> str:
    """Return the line of a failed request."""
    level = "warning" if is_server_error(record.status) else "info"
    fields = logs.render_fields({"route": record.route, **(record.failure or {})})
    return f"{_START % (now, level)}{_line(record)[:-2]},{fields}}}\n"


def _line(record: Record) -> str:
    """Return the line of a request, from its identifier on."""
    request_id, method, path, _, status, seconds, headers, _, _ = record
    line = f'{request_id}",{_constant_fields(method, path[:128], status)},"ms":{seconds * 1e3:.3f}'
    if b"traceparent" in headers:
        line += "," + logs.render_fields({"trace_id": ids.trace_id(headers)})
    return line + "}\n"


@lru_cache(maxsize=512)
def _constant_fields(method: str, path: str, status: int | str) -> str:
    """Return the fields that are equal in the lines of many requests."""
    # ASCII only: terminals interpret some characters that JSON does not escape
    return json.dumps({"method": method, "path": path, "status": status}, separators=(",", ":"))[
        1:-1
    ]
