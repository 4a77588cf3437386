"""A histogram that many requests a second may be observed in."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

import prometheus_client
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString


class Histogram(prometheus_client.Histogram):
    """A histogram whose counts are plain numbers, for one thread at a time.

    The base class takes a lock for each number, which costs more than all the rest of an
    observation. Its two methods that are overridden here are private; a test compares what both
    classes tell.
    """

    def _metric_init(self) -> None:
        self.counts = [0] * len(self._upper_bounds)
        """Observed values by bucket. Where a call is too much, add to this and to `total`."""
        self.total = 0.0
        """Sum of the observed values."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe a value."""
        self.counts[bisect_left(self._upper_bounds, amount)] += 1
        self.total += amount

    def observe_all(self, values: Iterable[float]) -> None:
        """Observe values."""
        counts, bounds, total = self.counts, self._upper_bounds, self.total
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.total = total

    def _child_samples(self) -> Iterator[Sample]:
        counts = [*accumulate(self.counts, initial=0.0)][1:]
        for bound, count in zip(self._upper_bounds, counts, strict=True):
            yield Sample("_bucket", {"le": floatToGoString(bound)}, count)  # type: ignore[no-untyped-call]
        yield Sample("_count", {}, counts[-1])
        yield Sample("_sum", {}, self.total)
