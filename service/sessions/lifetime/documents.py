"""The JSON documents that describe sessions to clients."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from service.sessions.lifetime.session import Session


def configuration_digest(configuration: Mapping[str, Any]) -> str:
    """Return the digest of a configuration, 64 hexadecimal digits, without batch and max_tokens."""
    covered = {name: configuration.get(name) for name in ("groups", "dtype", "kv_dtype")}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def list_document(session: Session, now: float) -> dict[str, Any]:
    """Return the document of a session in a list.

    Args:
        session: a live session.
        now: monotonic seconds.
    """
    cache = session.cache
    reserved = cache.reserved_bytes
    return {
        "id": session.id.text,
        "length": [*cache.length],
        "generation": cache.generation,
        "batch": cache.batch,
        "frozen": session.is_frozen,
        "pinned": session.is_pinned,
        "name": session.name,
        "labels": [*session.labels],
        "tier": session.tier,
        "segments": [*cache.num_segments],
        "bytes": {"own": cache.own_bytes, "shared": cache.shared_bytes, "reserved": reserved},
        "reserved_bytes": reserved,
        "expires_in_s": session.expires_in_s(now),
        "age_s": round(now - session.lease.created, 3),
        "configuration_digest": session.configuration_digest,
    }


def document(session: Session, now: float) -> dict[str, Any]:
    """Return the document of a session; arguments as `list_document`."""
    cache = session.cache
    return {
        **list_document(session, now),
        "lengths": [[*cache.lengths(layer)] for layer in range(cache.config.num_layers)],
        "configuration": dict(session.configuration),
    }
