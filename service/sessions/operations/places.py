"""Evict and shift: operations on a range of places."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rope_core import ConfigError
from rope_core.kvcache.structure import check_level
from service.sessions.lifetime.session import Session
from service.sessions.operations.structural import Apply, StructuralOperation
from service.sessions.requests.guard import per_row
from service.sessions.requests.parameters import (
    MAX_NUMBER,
    check_rows_exist,
    flag,
    rows_of,
    whole,
    whole_or_list,
)

Range = tuple[list[int], list[int], list[int] | None]
"""Start and stop of each row, and the rows; None: all."""


def _read_evict(values: Mapping[str, Any]) -> Apply:
    close = flag(values, "close", default=True)
    find = _read_recent(values) if "sinks" in values or "recent" in values else _read_range(values)

    def apply(session: Session) -> None:
        start, stop, rows = find(session)
        session.cache.evict(start, stop, rows=rows, close=close)

    return apply


def _read_shift(values: Mapping[str, Any]) -> Apply:
    find = _read_range(values)
    delta = whole_or_list(values, "delta", least=-MAX_NUMBER)

    def apply(session: Session) -> None:
        start, stop, rows = find(session)
        session.cache.shift(start, stop, delta, rows=rows)

    return apply


def _read_range(values: Mapping[str, Any]) -> Callable[[Session], Range]:
    start, stop = whole_or_list(values, "start"), whole_or_list(values, "stop")
    rows = rows_of(values)

    def find(session: Session) -> Range:
        length = _lengths(session, rows)
        starts, stops = _per_row("start", start, length), _per_row("stop", stop, length)
        for first, last, end in zip(starts, stops, length, strict=True):
            if not first <= last <= end:
                raise ConfigError("start", f"0 <= start <= stop <= {end}", f"{first} and {last}")
        return starts, stops, rows

    return find


def _read_recent(values: Mapping[str, Any]) -> Callable[[Session], Range]:
    """Return a function that finds the places between the first `sinks` and the last `recent`."""
    for name in ("start", "stop"):
        if name in values:
            raise ConfigError(name, "absent if sinks and recent are given", values[name])
    sinks, recent = whole(values, "sinks"), whole(values, "recent")
    rows = rows_of(values)

    def find(session: Session) -> Range:
        length = _lengths(session, rows)
        starts = [min(sinks, end) for end in length]
        stops = [max(start, end - recent) for start, end in zip(starts, length, strict=True)]
        return starts, stops, rows

    return find


def _lengths(session: Session, rows: Sequence[int] | None) -> list[int]:
    """Return the length of each row. Raises LayersDiffer: it would not be that of all layers."""
    check_level(session.cache)
    length = session.cache.length
    if rows is None:
        return length
    check_rows_exist(rows, session.cache.batch)
    return [length[row] for row in rows]


def _per_row(name: str, numbers: int | list[int], length: Sequence[int]) -> list[int]:
    numbers_of_rows = per_row(name, numbers, len(length))
    assert numbers_of_rows is not None, "the parameter is given"
    return numbers_of_rows


EVICT = StructuralOperation(
    "evict", ("start", "stop", "sinks", "recent", "rows", "close"), _read_evict
)
SHIFT = StructuralOperation("shift", ("start", "stop", "delta", "rows"), _read_shift)
