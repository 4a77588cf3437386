"""Turns: the operations of a session run one at a time, in the order in which they arrived."""

from collections.abc import Sequence


class Turns:
    """The queue of one session. For the event loop's thread.

    `async with turn(sessions_turns):` holds the turn of one or several sessions. A place in all
    queues is taken at once, so two operations on the same sessions cannot wait for each other. If
    no session is busy, nothing is awaited. A cancelled wait gives its places back.
    """


def turn(queues: Sequence[Turns]) -> object:
    """Return an async context manager that holds the turns of all queues."""
    raise NotImplementedError
