"""TCP ports on which nothing listens."""

import socket
from contextlib import ExitStack


def free_ports(number: int) -> list[int]:
    """Return that many different ports of 127.0.0.1."""
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(number)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def free_port() -> int:
    """Return a port of 127.0.0.1."""
    [port] = free_ports(1)
    return port
