"""`GET /v1/recent`: what happened in each of the last seconds, for people who watch a service."""

import json
import math
import platform
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from pydantic import SecretStr

from service import __version__
from service.asgi import io
from service.asgi.io import Receive, Scope, Send
from service.errors import BadQuery, UnknownName, printable
from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.observability.recent import BOUNDS, COLUMNS
from service.sessions.running.call import SessionServices
from service.settings import Settings

IDLE_LOOK_S = 10.0
"""How long the age of the session that is idle for longest is kept: finding it reads all."""

MAX_AFTER = 2**53
"""Largest second that a client may name: larger numbers are not exact in JavaScript."""

_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

_NOT_SHOWN = frozenset(("shared_memory_prefix", "session_key"))
"""Settings whose value is a secret: whoever knows it may read the data of others."""


class RecentRoute:
    """Answers `GET /v1/recent`, as an ASGI application.

    Args:
        service: has the rows and the limits.
        sessions: has the sessions and their memory.
        lifecycle: the phase of the service.
    """

    def __init__(
        self, service: InferenceHandler, sessions: SessionServices, lifecycle: Lifecycle
    ) -> None:
        self._service = service
        self._sessions = sessions
        self._lifecycle = lifecycle
        self._recent = service.metrics.recent
        self._next_look = 0.0
        self._least_recent_use = 0.0

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            BadQuery: `after` is no whole number of seconds, or is given twice.
            UnknownName: the query has another parameter.
        """
        body = self.render(read_after(scope["query_string"]))
        headers = [*_HEADERS, (b"content-length", b"%d" % len(body))]
        await io.send(send, 200, headers, [body])

    def render(self, after: int) -> bytes:
        """Return the answer with the rows of the seconds after one."""
        recent, service = self._recent, self._service
        rows = recent.rows_after(after)
        batcher, admission = service.batcher, service.admission
        now = {
            "now": round(recent.now(), 3),
            "started": round(recent.started, 3),
            "until": recent.until,
            "oldest": recent.oldest,
            "phase": self._lifecycle.phase.value,
            "drain": self._drain(),
            "queue": {
                "depth": batcher.num_waiting,
                "predicted_wait_s": round(batcher.load.wait_s(time.monotonic()), 6),
            },
            "admitted_bytes": admission.charged_bytes,
            "memory_bytes": service.engine.device.memory_bytes(),
            "connections": recent.num_connections(),
            "sessions": self._count_sessions(),
            "routes": recent.routes,
        }
        start = json.dumps(now, separators=(",", ":")).encode()[:-1]
        return b'%b,%b,"rows":[%b]}' % (start, self._constants, b",".join(rows))

    @cached_property
    def _constants(self) -> bytes:
        """The members that no request changes, as JSON; read once the service is complete."""
        service = self._service
        limits = {
            "queue_calls": service.batcher.max_queue_calls,
            "queue_s": service.settings.max_queue_s,
            "admitted_bytes": service.admission.max_bytes,
            "memory_bytes": service.engine.device.memory_limit_bytes,
            "lanes": service.batcher.max_inflight,
            "connections": self._recent.max_connections,
        }
        members = {"limits": limits, "about": about(service), "bounds": BOUNDS, "columns": COLUMNS}
        return json.dumps(members, separators=(",", ":")).encode()[1:-1]

    def _drain(self) -> Mapping[str, float | int] | None:
        ends = self._lifecycle.drain_ends
        if ends is None:
            return None
        left_s = max(0.0, round(ends - time.monotonic(), 1))
        return {"left_s": left_s, "requests": self._service.batcher.num_unfinished}

    def _count_sessions(self) -> Mapping[str, Any] | None:
        registry, arena = self._sessions.registry, self._sessions.arena
        if arena is None or not len(registry):
            return None
        now = registry.clock()
        if now >= self._next_look:
            self._next_look = now + IDLE_LOOK_S
            self._least_recent_use = min(each.lease.renewed for each in registry.sessions)
        idle_s = max(0.0, round(now - self._least_recent_use, 1))
        return {"live": len(registry), "pages": arena.count_pages(), "oldest_idle_s": idle_s}


def read_after(query: bytes) -> int:
    """Return the value of `after`; -1 if the query has none.

    Raises:
        BadQuery, UnknownName: as `RecentRoute.__call__`.
    """
    if not query:
        return -1
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, _ in pairs:
        if name != "after":
            raise UnknownName("parameter", name, ["after"])
    if len(pairs) != 1:
        raise BadQuery("the query must be after=SECOND, once")
    text = pairs[0][1]
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_AFTER):
        raise BadQuery(f"after must be a whole number of seconds since 1970, got {printable(text)}")
    return int(text)


def about(service: InferenceHandler) -> Mapping[str, Any]:
    """Return what the service is: versions, device, and settings that differ from the default."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": service.engine.device.name,
        "settings": changed_settings(service.settings),
    }


def changed_settings(settings: Settings) -> Mapping[str, str]:
    """Return the settings that differ from the default, as text; secrets and paths are "set"."""
    changed = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value == field.default:
            continue
        is_hidden = name in _NOT_SHOWN or isinstance(value, SecretStr | Path)
        changed[name] = "set" if is_hidden else _text(value)
    return changed


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return printable(value, 128)
