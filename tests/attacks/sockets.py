"""Exchange bytes with the service, and split the received bytes into answers."""

import re
import socket
from typing import NamedTuple

from tests.conftest import Started

LAST = b"GET /behind HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""The last request of a connection: answered with 404 if it is run."""


class Answer(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(started: Started) -> socket.socket:
    """Return a new connection."""
    host, port = started.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Return what the service sends until it closes; it waits for the last bytes to be read."""
    parts = []
    while part := connection.recv(2**20):
        parts.append(part)  # to join at each step would take seconds for a large answer
    return b"".join(parts)


def split(received: bytes) -> list[Answer]:
    """Split received bytes into answers."""
    answers = []
    while received:
        text, _, received = received.partition(b"\r\n\r\n")
        status, *lines = text.decode("ascii").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        answers.append(Answer(int(status.split()[1]), headers, received[:size]))
        received = received[size:]
    return answers


def read_answer(connection: socket.socket) -> Answer:
    """Return the next answer of an open connection."""
    received = b""
    while (end := received.find(b"\r\n\r\n") + 4) < 4:
        received += _receive(connection)
    size = end + int(re.search(rb"content-length: (\d+)", received[:end])[1])
    while len(received) < size:
        received += _receive(connection)
    (answer,) = split(received)
    return answer


def exchange(started: Started, *packets: bytes) -> list[Answer]:
    """Send packets, then return all answers until the service closes the connection."""
    with connect(started) as connection:
        for packet in packets:
            connection.sendall(packet)
        return split(read_all(connection))


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(2**20)
    if not part:
        raise ConnectionError("the service has closed the connection")
    return part
