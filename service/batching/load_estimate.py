"""Predict the wait of a new call: the work ahead of it, at the measured speed of the device."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from service.access.tenant import ANONYMOUS, Tenant
from service.batching.fair_queue import FairQueue, HasCost
from service.errors import Overloaded

CALL_S = 30e-6
"""Seconds of the event loop for each call, in addition to the estimated time of the call."""

DEADLINE_SHARE = 0.2
"""Fraction of the time until its deadline that a call may wait in the queue. The rest covers errors
of the estimate and the network."""

FEW_CALLS = 8
"""While fewer calls wait, a call is refused only if it would miss its deadline: a few long calls
are no overload."""

LEARNING_RATE = 0.2
"""Weight of the newest run in the measured speed."""

MAX_RATIO = 4.0
"""A run that took longer than this multiple of its expected time counts as this multiple."""


class Estimated(HasCost, Protocol):
    """A call whose estimated time is corrected by measured times."""

    @property
    def kind(self) -> Hashable:
        """Calls of one kind have estimates with about the same relative error."""


@dataclass(slots=True)
class _Kind:
    """Calls of one kind."""

    correction: float = 1.0
    """Correction factor of the estimates: measured time divided by estimated time."""
    queued_s: float = 0.0
    """Estimated time of the waiting calls, uncorrected."""


@dataclass(slots=True, eq=False)
class StartedRun:
    """A run in progress."""

    estimated_s: Mapping[Hashable, float]
    """Estimated time of its calls, by kind."""
    expected_s: float
    """Corrected estimate of the run; doubled whenever the run takes longer."""
    enqueued: float
    """Time at which its first call was put into the queue."""
    started: float


@dataclass(slots=True)
class LoadEstimate:
    """Estimate of the work that waits or runs, in seconds. Each call updates a few sums.

    The speed is measured from the end of one run to the end of the next, or from the arrival of a
    call at an idle device. The measurement includes packing, which makes the calls of a run
    cheaper, and the work of the event loop between two runs. Callers pass the time in.
    """

    max_queue_s: float
    """Longest predicted wait of an accepted call."""

    outstanding_s: float = field(default=0.0, init=False)
    """Outstanding work: expected time of all waiting calls and of all running calls, the latter in
    full. An upper bound of every predicted wait."""

    on_end: Callable[[], None] | None = field(default=None, init=False)
    """Called at the end of each run."""

    num_waiting: int = field(default=0, init=False)
    _queued_s: float = field(default=0.0, init=False)
    """Expected time of the waiting calls."""
    kinds: dict[Hashable, _Kind] = field(default_factory=dict, init=False)
    running: list[StartedRun] = field(default_factory=list, init=False)
    _last_end: float = field(default=0.0, init=False)
    """Time at which the last run ended."""

    def add(
        self,
        call: Estimated,
        now: float,
        deadline: float,
        queue: FairQueue[Any] | None = None,
        tenant: Tenant = ANONYMOUS,
    ) -> None:
        """Add a call that is put into the queue.

        Args:
            call: the call.
            now: current time in seconds.
            deadline: deadline of the call.
            queue: the waiting calls, without this one; None: all of them run before this one.
            tenant: tenant that sent the call.

        Raises:
            Overloaded: as `check`.
        """
        kind = self.kinds.get(call.kind)
        if kind is None:
            kind = self.kinds[call.kind] = _Kind()
        estimated_s = call.seconds + CALL_S
        expected_s, outstanding_s = estimated_s * kind.correction, self.outstanding_s
        if outstanding_s > self.max_queue_s or outstanding_s > DEADLINE_SHARE * (
            deadline - now - expected_s
        ):
            self._check(expected_s, now, deadline, _share_before(queue, tenant))
        kind.queued_s += estimated_s
        self.num_waiting += 1
        self._queued_s += expected_s
        self.outstanding_s = outstanding_s + expected_s

    def max_outstanding_s(self, spare_s: float) -> float:
        """Return the `outstanding_s` above which `check` may refuse a call.

        Args:
            spare_s: time until the deadline of the call, minus the estimated time of the call.
        """
        return min(self.max_queue_s, DEADLINE_SHARE * spare_s)

    def check(
        self,
        now: float,
        deadline: float,
        call: Estimated | None = None,
        queue: FairQueue[Any] | None = None,
        tenant: Tenant = ANONYMOUS,
    ) -> None:
        """Check that a call can be computed in time.

        Args:
            now: current time in seconds.
            deadline: deadline of the call.
            call: the call; None: its request has not been parsed yet.
            queue: the waiting calls; None: all of them run before this one.
            tenant: tenant that sent the call.

        Raises:
            Overloaded: the predicted wait is over the limit, or too long for the deadline. Never
                raised while no other call waits.
        """
        expected_s = 0.0 if call is None else self.expected_s(call)
        self._check(expected_s, now, deadline, _share_before(queue, tenant))

    def expected_s(self, call: Estimated) -> float:
        """Return the expected time of a call: its estimate, corrected by the measured speed."""
        kind = self.kinds.get(call.kind)
        return (call.seconds + CALL_S) * (1.0 if kind is None else kind.correction)

    def wait_s(self, now: float, share: float = 1.0) -> float:
        """Return the predicted wait of a new call.

        Args:
            now: current time in seconds.
            share: fraction of the waiting work that runs before the call.
        """
        rest_s = sum(max(0.0, run.started + run.expected_s - now) for run in self.running)
        return rest_s + share * self._queued_s

    def start(self, calls: Sequence[Estimated], enqueued: float, now: float) -> StartedRun:
        """Move waiting calls to a new run.

        Args:
            calls: calls of the run.
            enqueued: time at which the first of them was put into the queue.
            now: current time in seconds.
        """
        kinds = self.kinds
        estimated_s: dict[Hashable, float] = {}
        for call in calls:
            kind = call.kind
            estimated_s[kind] = estimated_s.get(kind, 0.0) + call.seconds + CALL_S
        expected_s = 0.0
        for kind, kind_s in estimated_s.items():
            kinds[kind].queued_s -= kind_s
            expected_s += kind_s * kinds[kind].correction
        run = StartedRun(estimated_s, expected_s, enqueued, now)
        self.num_waiting -= len(calls)
        self._queued_s -= expected_s
        self.running.append(run)
        return run

    def remove(self, call: Estimated) -> None:
        """Remove a waiting call that does not run."""
        self.kinds[call.kind].queued_s -= call.seconds + CALL_S
        self.num_waiting -= 1
        self._add_up()

    def extend(self, run: StartedRun) -> None:
        """Double the expected time of a run that has not ended in time."""
        run.expected_s *= 2
        self._add_up()

    def end(self, run: StartedRun, now: float) -> None:
        """Remove a run that has ended, and update the measured speed."""
        self.running.remove(run)
        measured_s = now - max(self._last_end, run.enqueued)
        kinds, total_s, expected_s = self.kinds, 0.0, 0.0
        for kind, kind_s in run.estimated_s.items():
            total_s += kind_s
            expected_s += kind_s * kinds[kind].correction
        ratio = min(measured_s / expected_s, MAX_RATIO)
        for kind, kind_s in run.estimated_s.items():
            state, weight = kinds[kind], LEARNING_RATE * kind_s / total_s
            change = state.correction * weight * (ratio - 1)
            state.correction += change
            self._queued_s += state.queued_s * change
        if not self.num_waiting:
            self._queued_s = 0.0  # removes rounding errors
        self._last_end, self.outstanding_s = now, self._queued_s
        for other in self.running:
            self.outstanding_s += other.expected_s
        if self.on_end is not None:
            self.on_end()

    def skip(self, now: float) -> None:
        """Exclude the time before `now` from the measured speed: the device was paused."""
        self._last_end = now

    def clear(self) -> None:
        """Remove all waiting calls."""
        for kind in self.kinds.values():
            kind.queued_s = 0.0
        self.num_waiting = 0
        self._add_up()

    def _check(self, expected_s: float, now: float, deadline: float, share: float) -> None:
        if not self.num_waiting:
            return
        wait_s, spare_s = self.wait_s(now, share), deadline - now - expected_s
        has_many = self.num_waiting >= FEW_CALLS
        if wait_s > (DEADLINE_SHARE * spare_s if has_many else spare_s):
            limit = "the deadline of the request"
        elif has_many and wait_s > self.max_queue_s:
            limit = f"the limit of {self.max_queue_s:g} s (ROPE_MAX_QUEUE_S)"
        else:
            return
        text = f"the predicted wait of {wait_s:.1f} s is too long for {limit}"
        raise Overloaded(text, max(1, ceil(wait_s)))

    def _add_up(self) -> None:
        """Recompute `_queued_s` and `outstanding_s` with the current correction factors."""
        queued_s = 0.0
        for kind in self.kinds.values():
            if not self.num_waiting:
                kind.queued_s = 0.0  # removes rounding errors
            queued_s += kind.queued_s * kind.correction
        self._queued_s = self.outstanding_s = queued_s
        for run in self.running:
            self.outstanding_s += run.expected_s


def _share_before(queue: FairQueue[Any] | None, tenant: Tenant) -> float:
    return 1.0 if queue is None else queue.share_before(tenant)
