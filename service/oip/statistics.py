"""Count the requests of models: the protocol's statistics, and the metrics of Triton."""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rope_core import Result
from service import errors
from service.batching.run import Completed
from service.oip.infer.models import VERSION
from service.oip.types import BatchStatistics, Duration, ModelStatistics

REASONS: Mapping[str, tuple[type[BaseException], ...]] = {
    "REJECTED": (errors.Overloaded, errors.Expired),
    "CANCELED": (errors.ClientLeft,),
    "BACKEND": (errors.DeviceFull, errors.DeviceLost, errors.DeviceStuck),
    "OTHER": (BaseException,),
}
"""Reasons of failures by the type of the exception; the first that matches counts."""

_STEPS = ("queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """Counts of one model. They only grow.

    Args:
        name: of the model.
        num_pending: returns how many of its calls wait now.
    """

    def __init__(self, name: str, num_pending: Callable[[], int]) -> None:
        self.name = name
        self.num_pending = num_pending
        self.num_answered = 0
        self.num_failed = Counter(dict.fromkeys(REASONS, 0))
        self._success_ns = self._fail_ns = 0
        self._last_ms = 0
        self._by_size: defaultdict[int, Counter[str]] = defaultdict(Counter)
        """By the number of calls in a run: nanoseconds of each step, and the number of requests."""

    @contextmanager
    def count(self, deadline: float = math.inf) -> Iterator[float]:
        """Count a request that fails in the `with` block; `add_success` counts one that does not.

        Yields the time of `time.perf_counter`. A request that is cancelled has failed because its
        client left, or because its deadline, a time of `time.monotonic`, has passed.
        """
        started = time.perf_counter()
        try:
            yield started
        except asyncio.CancelledError:
            is_late = time.monotonic() >= deadline
            self.add_failure(errors.TimedOut() if is_late else errors.ClientLeft(), started)
            raise
        except Exception as failure:
            self.add_failure(failure, started)
            raise

    def add_success(
        self, completed: Completed[Result] | None, started: float, written_from: float
    ) -> None:
        """Count a request that is answered: its answer has just been written.

        Args:
            completed: its run.
            started: time of `time.perf_counter` at its arrival.
            written_from: the same when writing the answer began.
        """
        assert completed is not None, "all models need the device"
        now = time.perf_counter()
        self.num_answered += 1
        self._success_ns += int((now - started) * 1e9)
        seconds = (completed.queue_s, completed.copy_s, completed.compute_s, now - written_from)
        sums = self._by_size[completed.num_calls]
        sums["requests"] += 1
        for step, step_s in zip(_STEPS, seconds, strict=True):
            sums[step] += int(step_s * 1e9)
        self._last_ms = int(time.time() * 1e3)

    def add_failure(self, failure: BaseException, started: float) -> None:
        """Count a failed request."""
        reasons = (name for name, types in REASONS.items() if isinstance(failure, types))
        self.num_failed[next(reasons)] += 1
        self._fail_ns += int((time.perf_counter() - started) * 1e9)
        self._last_ms = int(time.time() * 1e3)

    @property
    def ns(self) -> dict[str, int]:
        """Time of answered requests, of failed ones, and of each step of the answered ones."""
        steps = {step: sum(sums[step] for sums in self._by_size.values()) for step in _STEPS}
        return {"success": self._success_ns, "fail": self._fail_ns, **steps}

    @property
    def num_runs(self) -> int:
        """Runs of the device, if all calls of each run were of this model."""
        return sum(_num_runs(sums, size) for size, sums in self._by_size.items())

    def describe(self) -> ModelStatistics:
        """Return the protocol's document."""
        answered, ns = self.num_answered, self.ns
        return {
            "name": self.name,
            "version": VERSION,
            "last_inference": self._last_ms,
            "inference_count": answered,
            "execution_count": self.num_runs,
            "inference_stats": {
                "success": _duration(answered, ns["success"]),
                "fail": _duration(self.num_failed.total(), ns["fail"]),
                "queue": _duration(answered, ns["queue"]),
                "compute_input": _duration(answered, ns["compute_input"]),
                "compute_infer": _duration(answered, ns["compute_infer"]),
                "compute_output": _duration(answered, ns["compute_output"]),
                "cache_hit": _duration(0, 0),
                "cache_miss": _duration(0, 0),
            },
            "response_stats": {},
            "batch_stats": [self._describe_size(size) for size in sorted(self._by_size)],
            "memory_usage": [],
        }

    def _describe_size(self, size: int) -> BatchStatistics:
        sums = self._by_size[size]
        runs = _num_runs(sums, size)
        return {
            "batch_size": size,
            "compute_input": _duration(runs, sums["compute_input"] // size),
            "compute_infer": _duration(runs, sums["compute_infer"] // size),
            "compute_output": _duration(runs, sums["compute_output"] // size),
        }


def _num_runs(sums: Counter[str], size: int) -> int:
    return math.ceil(sums["requests"] / size)


def _microseconds(step: str, statistics: Statistics) -> int:
    return statistics.ns[step] // 1000


def _duration(count: int, ns: int) -> Duration:
    return {"count": count, "ns": ns}


class TritonMetrics(Collector):
    """The metrics that dashboards of Triton read.

    They are gauges here, because Triton's counters lack the suffix `_total` of Prometheus.
    """

    def __init__(self, models: Mapping[str, Statistics]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        numbers: dict[str, tuple[str, Callable[[Statistics], float]]] = {
            "request_success": ("Requests answered well.", lambda model: model.num_answered),
            "count": ("Inferences.", lambda model: model.num_answered),
            "exec_count": ("Runs of the device.", lambda model: model.num_runs),
            "pending_request_count": ("Calls waiting.", lambda model: model.num_pending()),
            "request_duration_us": ("Of good requests.", partial(_microseconds, "success")),
        }
        for step in _STEPS:
            numbers[f"{step}_duration_us"] = "Part of it.", partial(_microseconds, step)
        for name, (text, number) in numbers.items():
            family = GaugeMetricFamily(f"nv_inference_{name}", text, labels=("model", "version"))
            for model in self._models.values():
                family.add_metric((model.name, VERSION), number(model))
            yield family
        labels = ("model", "version", "reason")
        family = GaugeMetricFamily("nv_inference_request_failure", "Others.", labels=labels)
        for model in self._models.values():
            for reason, count in model.num_failed.items():
                family.add_metric((model.name, VERSION, reason), count)
        yield family
