"""Makes methods of sessions from the functions that build their operations and calls."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from rope_client.methods import described_by
from rope_client.rope_warning import Caller
from rope_client.sessions import operations
from rope_client.sessions.operation import Operation
from rope_client.sessions.state import SessionState

P = ParamSpec("P")
T = TypeVar("T")


def _runs(
    build: Callable[Concatenate[SessionState, P], Operation[T]],
) -> Callable[Concatenate["Operations", P], T]:
    @described_by(build, num_bound=1)
    def method(self: "Operations", /, *args: P.args, **kwargs: P.kwargs) -> T:
        caller = Caller.of(sys._getframe(1))
        return self._run(lambda: build(self.state, *args, **kwargs), caller)

    return method


def _awaits(
    build: Callable[Concatenate[SessionState, P], Operation[T]],
) -> Callable[Concatenate["AsyncOperations", P], Coroutine[Any, Any, T]]:
    # not `async def`: the frame of the caller is known now, and not when a task of its own runs
    @described_by(build, num_bound=1)
    def method(
        self: "AsyncOperations", /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        caller = Caller.of(sys._getframe(1))
        return self._run(lambda: build(self.state, *args, **kwargs), caller)

    return method


class Operations(ABC):
    """The operations of a session, blocking. They run one after the other, also from threads."""

    state: SessionState
    """What this client knows of the session."""

    @abstractmethod
    def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        """Build an operation when the one before has been answered, and run it."""

    step = _runs(operations.step)
    append = _runs(operations.append)
    attend = _runs(operations.attend)
    truncate = _runs(operations.truncate)
    select_tail = _runs(operations.select_tail)
    evict = _runs(operations.evict)
    shift = _runs(operations.shift)
    rebase = _runs(operations.rebase)
    reorder = _runs(operations.reorder)
    attach = _runs(operations.attach)


class AsyncOperations(ABC):
    """The operations of a session, awaited. They run one after the other, also from tasks."""

    state: SessionState
    """What this client knows of the session."""

    @abstractmethod
    async def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        """Build an operation when the one before has been answered, and run it."""

    step = _awaits(operations.step)
    append = _awaits(operations.append)
    attend = _awaits(operations.attend)
    truncate = _awaits(operations.truncate)
    select_tail = _awaits(operations.select_tail)
    evict = _awaits(operations.evict)
    shift = _awaits(operations.shift)
    rebase = _awaits(operations.rebase)
    reorder = _awaits(operations.reorder)
    attach = _awaits(operations.attach)


class Described:
    """What is known of a session without asking the service."""

    state: SessionState

    @property
    def id(self) -> str:
        """The id; a secret."""
        return self.state.id

    @property
    def length(self) -> tuple[int, ...]:
        """Tokens of each row: of its shortest layer."""
        return tuple(self.state.length)

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """`[layers][rows]`."""
        return tuple(map(tuple, self.state.lengths))

    @property
    def generation(self) -> int:
        """Rises with each operation that changes tokens, other than an append."""
        return self.state.generation

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.lengths)} layers, length {self.length}>"
