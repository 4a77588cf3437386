"""The connections of a client."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import httpx

H = TypeVar("H", bound=httpx.Client | httpx.AsyncClient)

ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class Connections(Generic[H]):
    """HTTP clients with one connection each; two calls never use one at the same time.

    One HTTP client for all calls would be slower: its pool inspects all connections at the start
    and at the end of each request. With 64 calls at a time that is more work than the request.
    """

    def __init__(self, open_client: Callable[[], H]) -> None:
        self._open_client = open_client
        self._opened: list[H] = []
        self._idle: list[H] = []
        self._is_closed = False

    @contextmanager
    def one(self) -> Iterator[H]:
        """Lend the client that was used last, or a new one if all are lent.

        Raises:
            RuntimeError: the connections were closed.
        """
        if self._is_closed:
            raise RuntimeError("the client is closed")
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._open_client()
            self._opened.append(client)
        try:
            yield client
        finally:
            self._idle.append(client)

    def end(self) -> list[H]:
        """Stop lending clients; return all of them, to be closed."""
        self._is_closed = True
        return self._opened
