"""Count the requests of models: the protocol's statistics, and the metrics of Triton."""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import errors
from service.batching.run import Completed
from service.oip.infer.models import VERSION
from service.oip.types import ComputeStatistics, Duration, ModelStatistics

REASONS: Mapping[str, tuple[type[BaseException], ...]] = {
    "REJECTED": (errors.Overloaded, errors.Expired),
    "CANCELED": (errors.ClientLeft,),
    "BACKEND": (errors.DeviceFull, errors.DeviceLost, errors.DeviceStuck),
    "OTHER": (BaseException,),
}
"""Reasons of failures by the type of the exception; the first that matches counts."""

_STEPS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _Sums:
    """The number of answered requests, and seconds of them and of their steps."""

    num_requests: int = 0
    success_s: float = 0.0
    queue_s: float = 0.0
    copy_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0

    @property
    def ns(self) -> Counter[str]:
        """Nanoseconds by the protocol's names."""
        seconds = {
            "success": self.success_s,
            "queue": self.queue_s,
            "compute_input": self.copy_s,
            "compute_infer": self.compute_s,
            "compute_output": self.output_s,
        }
        return Counter({step: int(step_s * 1e9) for step, step_s in seconds.items()})


class Statistics:
    """Counts of one model. They only grow.

    Args:
        name: of the model.
        num_pending: returns how many of its calls wait now.
    """

    def __init__(self, name: str, num_pending: Callable[[], int]) -> None:
        self.name = name
        self.num_pending = num_pending
        self.num_failed = Counter(dict.fromkeys(REASONS, 0))
        self._fail_ns = 0
        self._last = 0.0
        self._by_size: defaultdict[int, _Sums] = defaultdict(_Sums)
        """Sums of answered requests by the number of calls in their run."""

    def count(self, deadline: float = math.inf) -> "FailureCount":
        """Return the `with` block of a request; `deadline` is a time of `time.monotonic`."""
        return FailureCount(self, deadline)

    def add_success(
        self, completed: Completed[Any] | None, started: float, write_started: float
    ) -> None:
        """Count a request that is answered: its answer has just been written.

        Args:
            completed: its run; None: it needed none.
            started: time of `time.monotonic` at its arrival.
            write_started: time of `time.monotonic` when writing the answer began.
        """
        now = time.monotonic()
        sums = self._by_size[1 if completed is None else completed.num_calls]
        sums.num_requests += 1
        sums.success_s += now - started
        if completed is not None:
            sums.queue_s += completed.queue_s
            sums.copy_s += completed.copy_s
            sums.compute_s += completed.compute_s
        sums.output_s += now - write_started
        self._last = time.time()

    def add_failure(self, failure: BaseException, started: float) -> None:
        """Count a failed request."""
        reasons = (name for name, types in REASONS.items() if isinstance(failure, types))
        self.num_failed[next(reasons)] += 1
        self._fail_ns += int((time.monotonic() - started) * 1e9)
        self._last = time.time()

    @property
    def num_answered(self) -> int:
        """Answered requests."""
        return sum(sums.num_requests for sums in self._by_size.values())

    @property
    def ns(self) -> Counter[str]:
        """Time of answered requests, of failed ones, and of each step of the answered ones."""
        return sum((sums.ns for sums in self._by_size.values()), Counter(fail=self._fail_ns))

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
            "last_inference": int(self._last * 1e3),
            "inference_count": answered,
            "execution_count": self.num_runs,
            "inference_stats": {
                **_describe_compute(answered, ns),
                "success": _duration(answered, ns["success"]),
                "fail": _duration(self.num_failed.total(), ns["fail"]),
                "queue": _duration(answered, ns["queue"]),
                "cache_hit": _duration(0, 0),
                "cache_miss": _duration(0, 0),
            },
            "response_stats": {},
            "batch_stats": [
                {**_describe_compute(_num_runs(sums, size), sums.ns, size), "batch_size": size}
                for size, sums in sorted(self._by_size.items())
            ],
            "memory_usage": [],
        }


DEADLINE_TOLERANCE_S = 0.05
"""A request that is cancelled in this time before its deadline has passed the client's deadline.

A client cancels its request by its own clock, which may be a little early.
"""


class FailureCount:
    """A `with` block that counts a request that fails in it. `add_success` counts the others.

    `as` gives the time of `time.monotonic` at the start. A request that is cancelled has failed
    because its client left, or because its deadline has passed.
    """

    def __init__(self, statistics: Statistics, deadline: float) -> None:
        self._statistics = statistics
        self._deadline = deadline
        self._started = time.monotonic()

    def __enter__(self) -> float:
        return self._started

    def __exit__(self, _: object, failure: BaseException | None, __: object) -> None:
        if isinstance(failure, asyncio.CancelledError):
            is_late = time.monotonic() >= self._deadline - DEADLINE_TOLERANCE_S
            failure = errors.TimedOut() if is_late else errors.ClientLeft()
        if isinstance(failure, Exception):
            self._statistics.add_failure(failure, self._started)


def _num_runs(sums: _Sums, size: int) -> int:
    return math.ceil(sums.num_requests / size)


def _microseconds(step: str, statistics: Statistics) -> int:
    return statistics.ns[step] // 1000


def _describe_compute(count: int, ns: Counter[str], size: int = 1) -> ComputeStatistics:
    """Return the steps of `count` runs whose times are counted for each of their `size` calls."""
    return {
        "compute_input": _duration(count, ns["compute_input"] // size),
        "compute_infer": _duration(count, ns["compute_infer"] // size),
        "compute_output": _duration(count, ns["compute_output"] // size),
    }


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
            "request_success": (
                "Requests to a model of /v2 or gRPC that were answered with a result.",
                lambda model: model.num_answered,
            ),
            "count": (
                "Inferences of a model: the same number, as a request is one inference.",
                lambda model: model.num_answered,
            ),
            "exec_count": (
                "Runs of the device for a model; a run computes one or more requests.",
                lambda model: model.num_runs,
            ),
            "pending_request_count": (
                "Calls of a model that wait in the queue of the device now, those of /v1 included.",
                lambda model: model.num_pending(),
            ),
            "request_duration_us": (
                "Sum of the durations of successful requests, in microseconds.",
                partial(_microseconds, "success"),
            ),
        }
        for step in _STEPS:
            numbers[f"{step}_duration_us"] = (
                f"Part of that sum in the step {step}, in microseconds.",
                partial(_microseconds, step),
            )
        for name, (text, number) in numbers.items():
            family = GaugeMetricFamily(f"nv_inference_{name}", text, labels=("model", "version"))
            for model in self._models.values():
                family.add_metric((model.name, VERSION), number(model))
            yield family
        labels = ("model", "version", "reason")
        family = GaugeMetricFamily(
            "nv_inference_request_failure",
            "Requests to a model of /v2 or gRPC that failed, by reason.",
            labels=labels,
        )
        for model in self._models.values():
            for reason, count in model.num_failed.items():
                family.add_metric((model.name, VERSION, reason), count)
        yield family
