"""All metrics of one service, in a registry of its own."""

import platform
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics import disable_created_metrics

from service import __version__
from service.observability.histogram import Histogram
from service.observability.recent import Recent

_SECONDS = tuple(b * 10.0**e for e in range(-5, 2) for b in (1, 2.5, 5))  # 10 us to 50 s
_BUILD_SECONDS = tuple(2.0**e for e in range(-6, 7))  # 16 ms, from a cache, to 64 s
_REQUESTS = tuple(2.0**e for e in range(9))
_TOKENS = tuple(4.0**e for e in range(10))
_SEGMENTS = tuple(2.0**e for e in range(7))
_ROWS = tuple(2.0**e for e in range(13))

_DEPTHS = tuple(float(2**bits - 1) for bits in range(14))  # numbers of at most so many bits

MAX_TENANTS = 100
"""Tenants with their own label value; requests of all others are counted as "other"."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self.recent = Recent()
        """The last seconds, for `/v1/recent`."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = self._counter(
            "rope_requests",
            "Answered requests, by route and by status of HTTP or gRPC. 499: the client left.",
            ("route", "status"),
        )
        tenant_requests = self._counter(
            "rope_tenant_requests",
            "Requests with an API key, by tenant and outcome: admitted, or the limit that refused.",
            ("tenant", "outcome"),
        )
        self._tenant_requests = lru_cache(maxsize=8 * MAX_TENANTS)(tenant_requests.labels)
        self._tenants: set[str] = set()
        self.request_seconds = Histogram(
            "rope_request_duration_seconds",
            "Time from the header of a request to the last byte of its answer, by route.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        refusals = self._counter(
            "rope_refusals",
            "Requests, and messages of streams, that were answered with an error, by its code.",
            ("code",),
        )
        self.refusals = lru_cache(maxsize=256)(refusals.labels)
        self.queue_seconds = self._seconds(
            "queue_wait", "Time that a call waited in the queue until its run on the device began."
        )
        self.copy_seconds = self._seconds(
            "copy", "Time to pack the tensors of a run and to move them to and from the device."
        )
        self.compute_seconds = self._seconds("compute", "Time that the device computed a run.")
        self.device_busy_seconds = self._counter(
            "rope_device_busy_seconds",
            "Time in which runs were on the device, copies included; of all its lanes together.",
        )
        self.device_lanes = self._gauge(
            "rope_device_lanes", "Most runs that are on the device at a time."
        )
        self.batch_requests = Histogram(
            "rope_batch_requests",
            "Calls that were computed together in a run of the device.",
            buckets=_REQUESTS,
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "rope_batch_tokens",
            "Tokens of all calls in a run of the device.",
            buckets=_TOKENS,
            registry=registry,
        )
        calls = self._counter(
            "rope_backend_calls",
            "Computed calls, by operation and by the backend that computed them.",
            ("operation", "backend"),
        )
        self.backend_calls = lru_cache(maxsize=64)(calls.labels)
        self.kernel_builds = self._counter(
            "rope_kernel_builds",
            "GPU kernels that were built, or loaded from the cache, by outcome: built or failed.",
            ("outcome",),
        )
        self.kernel_build_seconds = Histogram(
            "rope_kernel_build_seconds",
            "Time to build a GPU kernel, or to load it from the cache.",
            buckets=_BUILD_SECONDS,
            registry=registry,
        )
        self.kernel_builds_waiting = self._gauge(
            "rope_kernel_builds_waiting",
            "GPU kernels that wait to be built; the eager backend computes their calls until then.",
        )
        self.kernel_builds_limit = self._gauge(
            "rope_kernel_builds_limit", "Most GPU kernels that wait to be built."
        )
        self.queue_depth = self._gauge(
            "rope_queue_depth", "Calls that wait in the queue of the device now."
        )
        self.queue_limit = self._gauge(
            "rope_queue_limit",
            "Most calls that may wait in the queue (ROPE_MAX_QUEUE_CALLS); more get 503.",
        )
        self.arrival_depths = Histogram(
            "rope_queue_depth_at_arrival",
            "Calls that waited when a further call arrived, whether it was accepted or refused.",
            buckets=_DEPTHS,
            registry=registry,
        )
        self.predicted_wait_seconds = self._gauge(
            "rope_predicted_wait_seconds",
            "Time that a new call would wait in the queue, by the estimates of the calls there.",
        )
        self.predicted_wait_limit_seconds = self._gauge(
            "rope_predicted_wait_limit_seconds",
            "Longest predicted wait (ROPE_MAX_QUEUE_S); calls that would wait longer get 503.",
        )
        self.late_calls = self._counter(
            "rope_late_calls", "Calls that were computed, but after the deadline of their request."
        )
        self.queued_bytes = self._gauge(
            "rope_queued_bytes", "Bytes of the tensors of the calls in the queue."
        )
        self.admitted_bytes = self._gauge(
            "rope_admitted_bytes",
            "Memory that the accepted requests and their answers may take now.",
        )
        self.admission_limit_bytes = self._gauge(
            "rope_admission_limit_bytes",
            "Most memory of all requests together (ROPE_MEMORY_BUDGET_BYTES); more get 503.",
        )
        self.device_memory_bytes = self._gauge(
            "rope_device_memory_bytes",
            "Memory in use on the device: of tensors on a GPU, of the whole process on a CPU.",
        )
        self.device_memory_limit_bytes = self._gauge(
            "rope_device_memory_limit_bytes",
            "Memory of the GPU; on a CPU the limit of the control group, or of the machine.",
        )
        self.connections = self._gauge("rope_connections", "Open HTTP connections.")
        self.connections_limit = self._gauge(
            "rope_connections_limit",
            "Most open HTTP connections (ROPE_MAX_CONNECTIONS); further ones wait in the kernel.",
        )
        self.log_lines_dropped = self._counter(
            "rope_log_lines_dropped",
            "Log lines lost because standard output was full, closed, or read too slowly.",
        )
        ops = self._counter(
            "rope_session_ops",
            "Operations on KV sessions, by operation and code: ok, or that of the problem.",
            ("op", "code"),
        )
        self.session_ops = lru_cache(maxsize=1024)(ops.labels)
        self.session_repeats = self._counter(
            "rope_session_repeats",
            "Operations on KV sessions that were done already, and got their answer again.",
        )
        self.session_step_seconds = self._seconds(
            "session_step",
            "Time of a step of a session, or of several in one request: wait, queue and run.",
        )
        self.kv_restore_seconds = self._seconds(
            "kv_restore", "Time in which the pages of an offloaded session came back to the device."
        )
        self.session_segments = Histogram(
            "rope_session_segments",
            "Segments of the row that has the most, of the rows that a run attends to.",
            buckets=_SEGMENTS,
            registry=registry,
        )
        self.step_rows = Histogram(
            "rope_step_rows",
            "Rows of KV sessions in a run of the device; each layer of a row counts.",
            buckets=_ROWS,
            registry=registry,
        )
        self._run_lock = Lock()
        self.ready = self._gauge(
            "rope_ready", "1 while /readyz answers 200; 0 during the warm-up and while ending."
        )
        Info("rope_build", "Versions of the service, torch and Python.", registry=registry).info(
            {
                "version": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )

    def count_refusal(self, code: str, status: int | str) -> None:
        """Count a request, or a message of a stream, that is answered with an error.

        Args:
            code: of docs/errors.md.
            status: of HTTP, or the name of that of gRPC.
        """
        self.refusals(code).inc()
        self.recent.refuse(code, status)

    def count_request(self, tenant: str, outcome: str) -> None:
        """Count a request of a tenant.

        Args:
            tenant: name in the keys file.
            outcome: admitted, or the limit that refused the request.
        """
        if len(self._tenants) < MAX_TENANTS:
            self._tenants.add(tenant)
        name = tenant if tenant in self._tenants else "other"
        self._tenant_requests(name, outcome).inc()

    def count_session_run(self, num_rows: int, num_segments: int) -> None:
        """Count a run of KV sessions, on any thread.

        Args:
            num_rows: rows of all calls.
            num_segments: of the row that has the most; 0 if nothing attends.
        """
        with self._run_lock:
            self.step_rows.observe(num_rows)
            if num_segments:
                self.session_segments.observe(num_segments)

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, registry=self.registry)

    def _seconds(self, what: str, help_text: str) -> Histogram:
        name = f"rope_{what}_seconds"
        return Histogram(name, help_text, buckets=_SECONDS, registry=self.registry)
