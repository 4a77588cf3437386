"""Distinguish a half-closed connection from a closed one, after the client's FIN."""

import select
import socket
from enum import Enum, auto


class Peer(Enum):
    """What is known of a client after its FIN."""

    READS = auto()
    """The client reads answers: the connection is half-closed."""
    UNKNOWN = auto()
    """Half-closed or closed: TCP sends the same segment for both."""
    LEFT = auto()
    """The client has closed its socket."""


def peer_after_eof(connection: socket.socket) -> Peer:
    """Return what is known of a client after its FIN."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # errors and hang-ups are always reported
    if poll.poll(0):
        return Peer.LEFT
    return Peer.READS if connection.family == socket.AF_UNIX else Peer.UNKNOWN
