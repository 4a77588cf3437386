"""TCP ports that belong to this process until it ends."""

import secrets
import socket

NUMBERS = range(20_000, 32_768)
"""Below those that Linux gives to outgoing connections, which could take a free port again."""


def free_ports(number: int) -> list[int]:
    """Return that many different ports of 127.0.0.1 on which nothing listens.

    No process of the tests gets one of them as long as this process lives. A service takes seconds
    to listen on its port: if two processes chose the same port in that time, the first service
    would answer the requests that are meant for the second.
    """
    ports: list[int] = []
    while len(ports) < number:
        port = secrets.choice(NUMBERS)  # Hypothesis sets the seed of `random`
        if _reserve(port):
            ports.append(port)
    return ports


def free_port() -> int:
    """Return a port of 127.0.0.1."""
    [port] = free_ports(1)
    return port


def _reserve(port: int) -> bool:
    """Return whether nothing listens on the port and no process has reserved it."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
        name.bind(f"\0rope-service-port-{port}")  # Linux frees the name when the process ends
    except OSError:
        name.close()
        return False
    name.detach()  # open as long as the process lives
    return True
