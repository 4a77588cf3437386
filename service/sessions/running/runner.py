"""Run a planned operation in the service's batcher, and commit it when its run ends."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rope_core.kvcache.run import LayerOutput
from service.batching.batcher import Batcher
from service.batching.call_queue import FutureEntry
from service.batching.run import Completed
from service.errors import TimedOut
from service.inference.handler import RequestContext, run_entry
from service.sessions.errors import OperationTimedOut
from service.sessions.lifetime.turns import Turn
from service.sessions.running.jobs import SessionJob

log = logging.getLogger("rope.failures")


@dataclass(slots=True, eq=False)
class PlannedOperation:
    """An operation that has its turn, and plans that wait for their run.

    It is settled once: it is committed or discarded, and its turn ends. This happens at the end of
    the run, even if no client waits for the answer any more.
    """

    turn: Turn
    commit: Callable[[], None]
    discard: Callable[[], None]
    changes: bool = True
    """Whether a run changes the session."""
    keeps_turn: bool = field(default=False, init=False)
    """Whether the turn goes on when this is settled."""
    is_settled: bool = field(default=False, init=False)

    def settle(self, *, has_run: bool) -> None:
        """Commit if all plans have run, else discard; then the turn ends. Raises nothing."""
        if self.is_settled:
            return
        self.is_settled = True
        try:
            (self.commit if has_run else self.discard)()
        except Exception:  # the batcher has other calls to answer
            log.exception("an operation of a session could not be settled")
        finally:
            if not self.keeps_turn:
                self.turn.release()


@dataclass(slots=True, eq=False)
class OperationEntry(FutureEntry[SessionJob, list[LayerOutput]]):
    """A job of an operation in the batcher.

    When the client leaves, a job that has not begun is withdrawn, and its operation is discarded.
    A job that has begun goes on, and keeps the turn of its sessions until the device has finished:
    the device uses the pages until then.
    """

    operation: PlannedOperation = field(kw_only=True)
    is_last: bool = field(kw_only=True)
    """Whether the operation has run when this job has."""
    is_abandoned: bool = field(default=False, init=False)
    """Whether nobody waits, while the job still runs."""
    _has_outcome: bool = field(default=False, init=False)

    def resolve(self, outcome: Completed[list[LayerOutput]] | Exception) -> None:
        """Settle the operation, and set the future's result; called at the end of a run too."""
        self._has_outcome = True
        failed = isinstance(outcome, Exception)
        if failed or self.is_last or self.is_abandoned:
            self.operation.settle(has_run=self.is_last and not failed)
        FutureEntry.resolve(self, outcome)

    def abandon(self, reason: Exception) -> None:
        """Fail the future alone: the job still runs."""
        if not self._has_outcome:
            self.is_abandoned = True
            FutureEntry.resolve(self, reason)


async def run_operation(
    batcher: Batcher[Any, Any],
    jobs: Sequence[SessionJob],
    operation: PlannedOperation,
    context: RequestContext,
) -> list[Completed[list[LayerOutput]]]:
    """Run the jobs of an operation one after the other; it is settled when this ends.

    If this fails while a job runs, the operation is settled later: at the end of that run.

    Raises:
        OperationTimedOut: the deadline has passed; `committed` of it is false or "unknown".
        Overloaded, ShuttingDown, DeviceFull, DeviceLost, DeviceStuck, ClientLeft: as the batcher;
            the session is unchanged.
    """
    completed = []
    entry = None
    try:
        for index, job in enumerate(jobs):
            future = asyncio.get_running_loop().create_future()
            entry = OperationEntry(
                job,
                time.monotonic() + job.wait_s,
                context.deadline,
                future,
                tenant=context.tenant,
                operation=operation,
                is_last=index == len(jobs) - 1,
            )
            completed.append(await run_entry(batcher, entry, context))
    except TimedOut:
        may_commit = entry is not None and entry.is_abandoned and entry.is_last
        raise OperationTimedOut("unknown" if may_commit and operation.changes else False) from None
    finally:
        if entry is None or not entry.is_abandoned:
            operation.settle(has_run=False)
    return completed
