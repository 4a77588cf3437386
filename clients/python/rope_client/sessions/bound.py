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


def _operation_method(
    build: Callable[Concatenate[SessionState, P], Operation[T]],
) -> Callable[Concatenate["Operations", P], T]:
    @described_by(build, num_bound=1)
    def method(self: "Operations", /, *args: P.args, **kwargs: P.kwargs) -> T:
        caller = Caller.of(sys._getframe(1))
        return self._run(lambda: build(self.state, *args, **kwargs), caller)

    return method


def _async_operation_method(
    build: Callable[Concatenate[SessionState, P], Operation[T]],
) -> Callable[Concatenate["AsyncOperations", P], Coroutine[Any, Any, T]]:
    # not `async def`: a task that runs the coroutine later has another frame than the caller
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

    step = _operation_method(operations.step)
    append = _operation_method(operations.append)
    attend = _operation_method(operations.attend)
    truncate = _operation_method(operations.truncate)
    select_tail = _operation_method(operations.select_tail)
    evict = _operation_method(operations.evict)
    shift = _operation_method(operations.shift)
    rebase = _operation_method(operations.rebase)
    reorder = _operation_method(operations.reorder)
    attach = _operation_method(operations.attach)


class AsyncOperations(ABC):
    """The operations of a session, awaited. They run one after the other, also from tasks."""

    state: SessionState
    """What this client knows of the session."""

    @abstractmethod
    async def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        """Build an operation when the one before has been answered, and run it."""

    step = _async_operation_method(operations.step)
    append = _async_operation_method(operations.append)
    attend = _async_operation_method(operations.attend)
    truncate = _async_operation_method(operations.truncate)
    select_tail = _async_operation_method(operations.select_tail)
    evict = _async_operation_method(operations.evict)
    shift = _async_operation_method(operations.shift)
    rebase = _async_operation_method(operations.rebase)
    reorder = _async_operation_method(operations.reorder)
    attach = _async_operation_method(operations.attach)


class SessionProperties:
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
