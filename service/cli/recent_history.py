"""The seconds that `/v1/recent` has answered: sums and percentiles over any part of them."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.cli.errors import InputError

KEPT_S = 900

Second = Mapping[str, Any]
"""A row by the names of its columns."""

COLUMNS = frozenset(
    ("second", "statuses", "refusals", "latency", "request_s", "runs", "calls", "tokens")
) | {"wait_s", "copy_s", "compute_s", "busy_s", "depth"}
"""Columns that are read here."""


@dataclass
class History:
    """The last seconds of one service, and the last answer."""

    last: Mapping[str, Any] = field(default_factory=dict)
    seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=KEPT_S))
    """Seconds with events, in the order of time."""

    @property
    def after(self) -> int:
        """The last second that is known."""
        return int(self.last.get("until", 0))

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add an answer of `/v1/recent`.

        Raises:
            InputError: it is no such answer.
        """
        try:
            columns = answer["columns"]
            rows = [dict(zip(columns, row, strict=True)) for row in answer["rows"]]
            is_complete = set(columns) >= COLUMNS and answer["bounds"] and answer["phase"]
            if self.last and answer["started"] != self.last["started"]:
                self.seconds.clear()  # another process
            self.seconds += [row for row in rows if row["second"] > self._newest()]
        except (KeyError, TypeError, ValueError):
            is_complete = False
        if not is_complete:
            raise InputError("what /v1/recent sent is no answer of this version")
        self.last = answer

    def last_seconds(self, number: int) -> list[Second]:
        """Return the seconds with events among the last `number`."""
        return [each for each in self.seconds if each["second"] > self.after - number]

    def by_column(self, number: int, width: int) -> list[list[Second]]:
        """Divide the last `number` seconds into `width` parts of equal length."""
        parts: list[list[Second]] = [[] for _ in range(width)]
        start = self.after - number
        for each in self.last_seconds(number):
            parts[(each["second"] - start - 1) * width // number].append(each)
        return parts

    def routes(self, seconds: Iterable[Second]) -> Mapping[str, Counter[int]]:
        """Return the requests of each route by bucket of their duration, most requests first."""
        counts: dict[int, Counter[int]] = {}
        for each in seconds:
            triples = iter(each["latency"])
            for route, bucket, count in zip(triples, triples, triples, strict=True):
                counts.setdefault(route, Counter())[bucket] += count
        names = self.last["routes"]
        order = sorted(counts, key=lambda route: -counts[route].total())
        return {names[route]: counts[route] for route in order}

    def percentile(self, buckets: Mapping[int, int], part: float) -> float | None:
        """Return the upper bound, in seconds, of the bucket that has a part of all requests below.

        The bound is infinite for durations above the last; None: there are no requests.
        """
        rank = part * sum(buckets.values())
        seen = 0
        bounds: Sequence[float] = self.last["bounds"]
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= rank:
                return bounds[bucket] if bucket < len(bounds) else float("inf")
        return None

    def _newest(self) -> int:
        return int(self.seconds[-1]["second"]) if self.seconds else -1


def total(seconds: Iterable[Second], column: str) -> float:
    """Return the sum of a column."""
    return float(sum(each[column] for each in seconds))


def count_statuses(seconds: Iterable[Second]) -> int:
    """Return the number of requests."""
    return sum(sum(each["statuses"].values()) for each in seconds)


def count_refusals(seconds: Iterable[Second]) -> Counter[tuple[str, int | str]]:
    """Return the refused requests by code and status."""
    counts: Counter[tuple[str, int | str]] = Counter()
    for each in seconds:
        for code, status, count in each["refusals"]:
            counts[code, status] += count
    return counts


def all_buckets(routes: Mapping[str, Counter[int]]) -> Counter[int]:
    """Return the requests of all routes by bucket."""
    return sum(routes.values(), Counter())
