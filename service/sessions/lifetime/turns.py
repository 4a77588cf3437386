"""Turns: the operations of a session run one at a time, in the order in which they arrived."""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self


def do_nothing() -> None:
    """Do nothing when no operation is left."""


class Turns:
    """The queue of one session. For the event loop's thread.

    Args:
        on_idle: called when no operation is left.
    """

    __slots__ = ("_queue", "last_renews", "on_idle")

    def __init__(self, on_idle: Callable[[], None] = do_nothing) -> None:
        self._queue: deque[Turn] = deque()
        self.on_idle = on_idle
        self.last_renews = True
        """Whether the last turn was a use of the session."""

    @property
    def is_busy(self) -> bool:
        """Whether an operation runs or waits."""
        return bool(self._queue)

    def _remove(self, turn: "Turn") -> None:
        was_first = self._queue[0] is turn
        self._queue.remove(turn)
        if not self._queue:
            self.last_renews = turn.renews
            self.on_idle()
        elif was_first:
            self._queue[0]._advance()


class Turn:
    """The turn of one or several sessions, or a place in their queues.

    A place in all queues is taken at once, so two operations on the same sessions cannot wait for
    each other. `async with` waits for the turn, and releases it at the end unless `keep` was
    called. If no session is busy, nothing is awaited. A cancelled wait gives the places back.

    Args:
        queues: of the sessions; one that is named twice counts once.
        renews: whether the turn is a use of the sessions, which renews their leases.
    """

    __slots__ = ("_future", "_is_kept", "_num_waiting", "_queues", "renews")

    def __init__(self, queues: Iterable[Turns], *, renews: bool = True) -> None:
        self.renews = renews
        self._queues: Iterable[Turns] = dict.fromkeys(queues)
        self._future: Future[None] | None = None
        self._is_kept = False
        self._num_waiting = 0
        """Queues in which another turn is before this one."""
        for queue in self._queues:
            self._num_waiting += bool(queue._queue)
            queue._queue.append(self)

    @property
    def is_held(self) -> bool:
        """Whether the turn has come, and has not been released."""
        return not self._num_waiting and bool(self._queues)

    async def wait(self) -> None:
        """Return when the turn has come.

        Raises:
            CancelledError: the places have been given back.
        """
        if not self._num_waiting:
            return
        self._future = get_running_loop().create_future()
        try:
            await self._future
        except BaseException:
            self.release()
            raise

    def keep(self) -> None:
        """Keep the turn after the `async with` block; the caller must call `release` later."""
        self._is_kept = True

    def release(self) -> None:
        """Give the turn or the places back. Idempotent. A `wait` that still runs is cancelled."""
        queues, self._queues = self._queues, ()
        if self._future is not None:
            self._future.cancel()
        for queue in queues:
            queue._remove(self)

    def hand_over(self) -> "Turn":
        """Return another turn that has the places of this one, which must be held."""
        other = Turn((), renews=self.renews)
        other._queues, self._queues = self._queues, ()
        for queue in other._queues:
            queue._queue[queue._queue.index(self)] = other
        return other

    async def __aenter__(self) -> Self:
        if self._num_waiting:
            await self.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_kept:
            self.release()

    def _advance(self) -> None:
        """Count one queue less to wait for."""
        self._num_waiting -= 1
        if not self._num_waiting and self._future is not None and not self._future.done():
            self._future.set_result(None)
