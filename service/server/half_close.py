"""What the end of a client's bytes says of the client: it sends no more, and may have left."""

import select
import socket
from enum import Enum, auto


class Peer(Enum):
    """A client that sends no more."""

    READS = auto()
    """It waits for answers."""
    UNKNOWN = auto()
    """It waits for answers, or has closed its socket: TCP sends the same segment for both."""
    LEFT = auto()


def peer_after_eof(connection: socket.socket) -> Peer:
    """Return what is known of a client that sends no more."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # errors and hang-ups are always reported
    if poll.poll(0):
        return Peer.LEFT
    return Peer.READS if connection.family == socket.AF_UNIX else Peer.UNKNOWN
