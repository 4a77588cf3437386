"""All metrics of one service, in a registry of its own."""

import platform
from functools import lru_cache

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest
from prometheus_client.metrics import disable_created_metrics

from service import __version__
from service.observability.histogram import Histogram

_SECONDS = tuple(b * 10.0**e for e in range(-5, 2) for b in (1, 2.5, 5))  # 10 us to 50 s
_BUILD_SECONDS = tuple(2.0**e for e in range(-6, 7))  # 16 ms, from a cache, to 64 s
_REQUESTS = tuple(2.0**e for e in range(9))
_TOKENS = tuple(4.0**e for e in range(10))

MAX_TENANTS = 100
"""Tenants with their own label value; requests of all others are counted as "other"."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "rope_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        tenant_requests = Counter(
            "rope_tenant_requests",
            "Requests by tenant and outcome: admitted, or the limit that refused them.",
            ("tenant", "outcome"),
            registry=registry,
        )
        self._tenant_requests = lru_cache(maxsize=8 * MAX_TENANTS)(tenant_requests.labels)
        self._tenants: set[str] = set()
        self.request_seconds = Histogram(
            "rope_request_duration_seconds",
            "From the request's header to the last byte of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = self._seconds("queue_wait", "From a call's arrival to its run.")
        self.copy_seconds = self._seconds("copy", "Packing and moving tensors, for each run.")
        self.compute_seconds = self._seconds("compute", "Computing, for each run.")
        self.batch_requests = Histogram(
            "rope_batch_requests", "Calls in a run.", buckets=_REQUESTS, registry=registry
        )
        self.batch_tokens = Histogram(
            "rope_batch_tokens", "Tokens in a run.", buckets=_TOKENS, registry=registry
        )
        calls = Counter(
            "rope_backend_calls",
            "Calls answered, by the backend that computed them.",
            ("operation", "backend"),
            registry=registry,
        )
        self.backend_calls = lru_cache(maxsize=64)(calls.labels)
        self.kernel_builds = Counter(
            "rope_kernel_builds", "Kernels built for the device.", ("outcome",), registry=registry
        )
        self.kernel_build_seconds = Histogram(
            "rope_kernel_build_seconds",
            "Building one kernel.",
            buckets=_BUILD_SECONDS,
            registry=registry,
        )
        self.kernel_builds_waiting = Gauge(
            "rope_kernel_builds_waiting", "Kernels waiting to be built.", registry=registry
        )
        self.queue_depth = Gauge("rope_queue_depth", "Calls waiting for a run.", registry=registry)
        self.predicted_wait_seconds = Gauge(
            "rope_predicted_wait_seconds",
            "Predicted wait of a new call for its run.",
            registry=registry,
        )
        self.late_calls = Counter(
            "rope_late_calls", "Calls whose run ended after their deadline.", registry=registry
        )
        self.queued_bytes = Gauge("rope_queued_bytes", "Bytes of calls waiting.", registry=registry)
        self.admitted_bytes = Gauge(
            "rope_admitted_bytes", "Memory that admitted requests may take.", registry=registry
        )
        self.device_memory_bytes = Gauge(
            "rope_device_memory_bytes", "Memory in use on the device.", registry=registry
        )
        self.connections = Gauge("rope_connections", "Open HTTP connections.", registry=registry)
        self.log_lines_dropped = Counter(
            "rope_log_lines_dropped",
            "Log lines dropped because the reader of standard output was too slow.",
            registry=registry,
        )
        self.ready = Gauge("rope_ready", "1 while ready for traffic.", registry=registry)
        Info("rope_build", "Versions of service, torch and Python.", registry=registry).info(
            {
                "version": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )

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

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)

    def _seconds(self, what: str, help_text: str) -> Histogram:
        name = f"rope_{what}_seconds"
        return Histogram(name, help_text, buckets=_SECONDS, registry=self.registry)
