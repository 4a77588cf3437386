"""Truncate: forget the last tokens of all layers."""

from collections.abc import Mapping
from typing import Any

from rope_core import ConfigError
from service.sessions.lifetime.session import Session
from service.sessions.operations.structural import Apply, StructuralOperation
from service.sessions.requests.guard import conflict, per_row
from service.sessions.requests.parameters import whole, whole_or_list


def _read(values: Mapping[str, Any]) -> Apply:
    length = whole_or_list(values, "length", None)
    drop = whole(values, "drop", None)
    if (length is None) == (drop is None):
        raise ConfigError(
            "length", "given, or drop, and not both", "neither" if drop is None else "both"
        )

    def apply(session: Session) -> None:
        cache = session.cache
        now = cache.length
        if drop is not None:
            lengths = [each - drop for each in now]
        else:
            lengths = per_row("length", length, len(now)) or []
        if any(new < 0 or new > old for new, old in zip(lengths, now, strict=True)):
            raise conflict(lengths, now, cache.generation)
        cache.truncate(lengths)

    return apply


TRUNCATE = StructuralOperation("truncate", ("length", "drop"), _read)
