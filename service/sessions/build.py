"""Build the handler of session operations from the settings."""

from functools import partial

from rope_core.kvcache.arena import Arena
from service.access.hosts import is_loopback
from service.device import Device, cgroup
from service.errors import DeviceLost, DeviceStuck
from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.sessions.handler import SessionHandler
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.metrics import SessionMetrics
from service.sessions.paths import EXPORT, OPERATIONS
from service.sessions.running.call import SessionServices
from service.settings import Settings

HOST_SHARE = 0.25
"""Part of the memory limit that keys and values take on a CPU, unless the operator says more."""

DEVICE_SHARE = 0.6
"""Part of the free memory of a GPU."""


OPERATION_NAMES = (
    "create",
    "list",
    "inspect",
    "change",
    "delete",
    "step_many",
    EXPORT,
    *OPERATIONS,
)
"""Label values of `rope_session_ops`."""


def build_sessions(inference: InferenceHandler, lifecycle: Lifecycle) -> SessionHandler:
    """Return the handler of session operations. Memory is allocated for the first session.

    Args:
        inference: of all other calls; has the batcher and the device.
        lifecycle: says whether the service is ending.
    """
    settings, batcher = inference.settings, inference.batcher
    key = settings.session_key
    ids = SessionIds(
        settings.session_owner, None if key is None else key.get_secret_value().encode()
    )
    registry = SessionRegistry(
        ids,
        LeaseLimits(settings.session_ttl_s, settings.session_max_age_s),
        max_sessions=settings.max_sessions,
    )
    report = batcher.on_failure

    def end_all(failure: DeviceLost | DeviceStuck) -> None:
        registry.end_all("device_lost")
        report(failure)

    batcher.on_failure = end_all
    make_host = None
    if settings.kv_host_bytes:
        make_host = partial(_make_host, settings, inference.engine.device)
    services = SessionServices(inference, registry, lambda: _make_arena(inference), make_host)
    services.offload.on_restore = inference.metrics.kv_restore_seconds.observe
    inference.metrics.registry.register(SessionMetrics(registry, services.offload))
    for operation in OPERATION_NAMES:
        inference.metrics.session_ops(operation, "ok")
    return SessionHandler(services, lifecycle, is_on=_is_on(settings))


def _is_on(settings: Settings) -> bool:
    if settings.sessions != "on":
        return settings.sessions == "open"
    return settings.keys_file is not None or is_loopback(settings.http_host)


def _make_host(settings: Settings, device: Device) -> Arena:
    """Return memory of the host for offloaded sessions."""
    is_pinned = device.scratch is None
    page_tokens = settings.kv_page_tokens
    return Arena(settings.kv_host_bytes, page_tokens=page_tokens, is_pinned=is_pinned)


def _make_arena(inference: InferenceHandler) -> Arena:
    settings, device = inference.settings, inference.engine.device
    num_bytes = settings.kv_bytes
    if num_bytes is None and device.scratch is not None:  # computes in memory of the host
        num_bytes = int(cgroup.memory_bytes() * HOST_SHARE)
    elif num_bytes is None:
        num_bytes = int((device.memory_limit_bytes - device.memory_bytes()) * DEVICE_SHARE)
    place = device.name if device.scratch is None else "cpu"
    return Arena(num_bytes, place, page_tokens=settings.kv_page_tokens)
