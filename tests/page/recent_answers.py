"""A stand-in for `/v1/recent`: answers of its shape, of seconds that a test makes."""

from bisect import bisect_left
from typing import Any
from urllib.parse import parse_qs, urlsplit

BOUNDS = [b * 10.0**e for e in range(-5, 2) for b in (1, 1.5, 2, 3, 4, 5, 7)] + [100.0]

COLUMNS = [
    *("second", "statuses", "refusals", "latency", "request_s", "messages", "runs", "calls"),
    *("tokens", "wait_s", "wait_max_s", "copy_s", "compute_s", "busy_s", "depth"),
    *("admitted_bytes", "memory_bytes"),
]

NOON = 1_764_504_000
"""12:00:00 UTC on the 30th of November 2025."""

MIB = 2**20


class FakeRecent:
    """What a service would answer; `second(...)` adds a second in which something happened.

    Args:
        until: the last complete second.
        age: seconds since the start of the service.
    """

    def __init__(self, until: int = NOON, age: int = 900) -> None:
        self.until = until
        self.started = until - age + 0.5
        self.routes: list[str] = []
        self.rows: dict[int, list[Any]] = {}
        self.more: dict[str, Any] = {}
        """Members of the answer that differ from those of a quiet service."""
        self.about: dict[str, Any] = {}

    def second(
        self,
        second: int | None = None,
        *,
        latencies: dict[str, list[float]] | None = None,
        refusals: list[tuple[str, int, int]] | None = None,
        **values: float,
    ) -> None:
        """Add a second.

        Args:
            second: of 1970; the last complete one by default.
            latencies: seconds of the answered requests of each route.
            refusals: code, status and count.
            values: of other columns.
        """
        latencies, refusals = latencies or {}, refusals or []
        second = self.until if second is None else second
        statuses: dict[str, int] = {}
        triples: list[int] = []
        num = 0
        for route, seconds in latencies.items():
            if route not in self.routes:
                self.routes.append(route)
            counts: dict[int, int] = {}
            for value in seconds:
                bucket = bisect_left(BOUNDS, value)
                counts[bucket] = counts.get(bucket, 0) + 1
            for bucket, count in sorted(counts.items()):
                triples += [self.routes.index(route), bucket, count]
            num += len(seconds)
        if num:
            statuses["200"] = num
        for _, status, count in refusals:
            statuses[str(status)] = statuses.get(str(status), 0) + count
        row = {
            "statuses": statuses,
            "refusals": [list(each) for each in refusals],
            "latency": triples,
            "request_s": sum(map(sum, latencies.values())),
            "runs": num,
            "calls": num,
            "tokens": 100 * num,
            "memory_bytes": 300 * MIB,
            **values,
        }
        self.rows[second] = [second, *(row.get(name, 0) for name in COLUMNS[1:])]

    def restart(self, at: int) -> None:
        """Begin a new process at a second: its ring is empty, and its routes come anew."""
        self.started, self.rows, self.routes = at + 0.5, {}, []

    def answer(self, url: str = "") -> dict[str, Any]:
        """Return the answer to a request."""
        after = int(parse_qs(urlsplit(url).query).get("after", ["0"])[0])
        oldest = max(int(self.started), self.until - 899)
        rows = [
            row for s, row in sorted(self.rows.items()) if max(after, oldest - 1) < s <= self.until
        ]
        about = {"version": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "device": "cpu"}
        return {
            "now": self.until + 1.1,
            "started": self.started,
            "until": self.until,
            "oldest": oldest,
            "phase": "ready",
            "drain": None,
            "queue": {"depth": 0, "predicted_wait_s": 0.0},
            "admitted_bytes": 3 * MIB,
            "memory_bytes": 300 * MIB,
            "connections": 2,
            "sessions": None,
            "limits": {
                "queue_calls": 8192,
                "queue_s": 2.0,
                "admitted_bytes": 1024 * MIB,
                "memory_bytes": 4096 * MIB,
                "lanes": 1,
                "connections": 4096,
            },
            "about": {**about, "settings": {}, **self.about},
            "routes": self.routes,
            "bounds": BOUNDS,
            "columns": COLUMNS,
            "rows": rows,
            **self.more,
        }
