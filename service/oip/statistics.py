"""What the models have done: the protocol's statistics, and Triton's lines of metrics."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rope_core import Result
from service.batching.run import Completed
from service.errors import ClientLeft, DeviceFull, DeviceLost, DeviceStuck, Expired, Overloaded
from service.oip.infer.models import VERSION
from service.oip.types import BatchStatistics, Duration, ModelStatistics

REASONS: Mapping[str, tuple[type[BaseException], ...]] = {
    "REJECTED": (Overloaded, Expired),
    "CANCELED": (ClientLeft,),
    "BACKEND": (DeviceFull, DeviceLost, DeviceStuck),
    "OTHER": (BaseException,),
}
"""Why a request failed: the first that fits."""

_STEPS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _Size:
    """Runs of one size, as the requests of a model saw them."""

    num_requests: int = 0
    queue_s: float = 0.0
    compute_input_s: float = 0.0
    compute_infer_s: float = 0.0
    compute_output_s: float = 0.0

    def ns(self, step: str) -> int:
        """Return the sum of what a step took."""
        return int(getattr(self, f"{step}_s") * 1e9)


class Statistics:
    """Counts of one model, which only grow.

    Args:
        name: of the model.
        num_pending: tells how many of its calls wait now.
    """

    def __init__(self, name: str, num_pending: Callable[[], int]) -> None:
        self.name = name
        self.num_pending = num_pending
        self.num_answered = 0
        self.num_failed = Counter(dict.fromkeys(REASONS, 0))
        self._success_ns = self._fail_ns = 0
        self._last_ms = 0
        self._sizes: dict[int, _Size] = {}

    def answered(self, answer: Completed[Result], begun_s: float, write_s: float) -> None:
        """Count a request that was answered well.

        Args:
            answer: to its call.
            begun_s: time of `time.perf_counter` at its head.
            write_s: time that it took to write the answer.
        """
        self.num_answered += 1
        self._success_ns += int((time.perf_counter() - begun_s) * 1e9)
        size = self._sizes.get(answer.num_calls)
        if size is None:
            size = self._sizes[answer.num_calls] = _Size()
        size.num_requests += 1
        size.queue_s += answer.queue_s
        size.compute_input_s += answer.copy_s
        size.compute_infer_s += answer.compute_s
        size.compute_output_s += write_s
        self._last_ms = int(time.time() * 1e3)

    def failed(self, failure: BaseException, begun_s: float) -> None:
        """Count a request that was not."""
        fits = (name for name, kinds in REASONS.items() if isinstance(failure, kinds))
        self.num_failed[next(fits)] += 1
        self._fail_ns += int((time.perf_counter() - begun_s) * 1e9)
        self._last_ms = int(time.time() * 1e3)

    @property
    def ns(self) -> dict[str, int]:
        """Time of good requests, of others, and of each step of the good ones."""
        steps = {n: sum(size.ns(n) for size in self._sizes.values()) for n in _STEPS}
        return {"success": self._success_ns, "fail": self._fail_ns, **steps}

    @property
    def num_runs(self) -> int:
        """Runs of the device; what others had in the same ones is taken for equal."""
        return sum(_num_runs(each, size) for size, each in self._sizes.items())

    def describe(self) -> ModelStatistics:
        """Return the protocol's document."""
        good, ns = self.num_answered, self.ns
        return {
            "name": self.name,
            "version": VERSION,
            "last_inference": self._last_ms,
            "inference_count": good,
            "execution_count": self.num_runs,
            "inference_stats": {
                "compute_input": _duration(good, ns["compute_input"]),
                "compute_infer": _duration(good, ns["compute_infer"]),
                "compute_output": _duration(good, ns["compute_output"]),
                "success": _duration(good, ns["success"]),
                "fail": _duration(self.num_failed.total(), ns["fail"]),
                "queue": _duration(good, ns["queue"]),
                "cache_hit": _duration(0, 0),
                "cache_miss": _duration(0, 0),
            },
            "response_stats": {},
            "batch_stats": [self._of_size(size) for size in sorted(self._sizes)],
            "memory_usage": [],
        }

    def _of_size(self, size: int) -> BatchStatistics:
        each = self._sizes[size]
        runs = _num_runs(each, size)
        return {
            "compute_input": _duration(runs, each.ns("compute_input") // size),
            "compute_infer": _duration(runs, each.ns("compute_infer") // size),
            "compute_output": _duration(runs, each.ns("compute_output") // size),
            "batch_size": size,
        }


def _num_runs(each: _Size, size: int) -> int:
    return math.ceil(each.num_requests / size)


def _microseconds(step: str, each: Statistics) -> int:
    return each.ns[step] // 1000


def _duration(count: int, ns: int) -> Duration:
    return {"count": count, "ns": ns}


class TritonMetrics(Collector):
    """Lines that dashboards of Triton read: counters there, without the suffix of counters here."""

    def __init__(self, models: Mapping[str, Statistics]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        numbers: dict[str, tuple[str, Callable[[Statistics], float]]] = {
            "request_success": ("Requests answered well.", lambda each: each.num_answered),
            "count": ("Inferences.", lambda each: each.num_answered),
            "exec_count": ("Runs of the device.", lambda each: each.num_runs),
            "pending_request_count": ("Calls waiting.", lambda each: each.num_pending()),
            "request_duration_us": ("Of good requests.", partial(_microseconds, "success")),
        }
        for step in _STEPS:
            numbers[f"{step}_duration_us"] = "Part of it.", partial(_microseconds, step)
        for name, (text, number) in numbers.items():
            family = GaugeMetricFamily(f"nv_inference_{name}", text, labels=("model", "version"))
            for each in self._models.values():
                family.add_metric((each.name, VERSION), number(each))
            yield family
        labels = ("model", "version", "reason")
        family = GaugeMetricFamily("nv_inference_request_failure", "Others.", labels=labels)
        for each in self._models.values():
            for reason, count in each.num_failed.items():
                family.add_metric((each.name, VERSION, reason), count)
        yield family
