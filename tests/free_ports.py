"""TCP ports on which nothing listens."""

import secrets
import socket
from contextlib import ExitStack

NUMBERS = range(20_000, 32_768)
"""Below those that Linux gives to outgoing connections, which could take a free port again."""


def free_ports(number: int) -> list[int]:
    """Return that many different ports of 127.0.0.1."""
    ports: list[int] = []
    with ExitStack() as bound:
        while len(ports) < number:
            port = secrets.choice(NUMBERS)  # Hypothesis sets the seed of `random`
            try:
                bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:  # in use
                continue
            ports.append(port)
    return ports


def free_port() -> int:
    """Return a port of 127.0.0.1."""
    [port] = free_ports(1)
    return port
