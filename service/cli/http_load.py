"""Load from several connections, each with one request at a time; and a server that echoes."""

import multiprocessing
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from service.cli.errors import InputError
from service.errors import printable

TIMEOUT_S = 30.0

_RECEIVE_BYTES = 2**18


def connect(url: str) -> socket.socket:
    """Return a connection to the server of a URL.

    Raises:
        InputError: it cannot be reached.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = socket.create_connection((parts.hostname or "", port), TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return context.wrap_socket(connection, server_hostname=parts.hostname)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot reach {printable(url)}: {printable(error)}") from None
    return connection


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send a request; return the status and the body of the answer.

    Raises:
        OSError: the connection breaks.
        ValueError: the answer is not HTTP with a length.
    """
    connection.sendall(request)
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _receive(connection)
    header = bytes(received[:end]).lower()
    status = int(header.split(b" ", 2)[1])
    at = header.index(b"content-length:") + len(b"content-length:")
    left = end + 4 + int(header[at:].split(b"\r\n", 1)[0]) - len(received)
    while left > 0:
        piece = _receive(connection)
        received += piece
        left -= len(piece)
    return status, bytes(received[end + 4 :])


def measure(url: str, request: bytes, num_clients: int, seconds: float) -> list[float]:
    """Send a request from several connections for a time; return the seconds of each.

    Raises:
        InputError: a request fails.
    """
    durations: list[float] = []
    failures: list[str] = []
    connections = [connect(url) for _ in range(num_clients)]
    ends = time.perf_counter() + seconds

    def send(connection: socket.socket) -> None:
        own: list[float] = []
        try:
            while (started := time.perf_counter()) < ends and not failures:
                status, body = exchange(connection, request)
                own.append(time.perf_counter() - started)
                if status != 200:
                    failures.append(f"{status}: {printable(body[:300].decode(errors='replace'))}")
        except (OSError, ValueError) as error:
            failures.append(printable(error))
        durations.extend(own)

    threads = [threading.Thread(target=send, args=(each,), daemon=True) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    if failures:
        raise InputError(f"a request failed: {failures[0]}")
    return durations


@contextmanager
def echo_server(num_answer_bytes: int) -> Iterator[str]:
    """Run a server in a process of its own, and yield its address.

    Each request gets an answer of the same length, without work: the way alone.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    spawned = multiprocessing.get_context("fork")  # it inherits the listener
    process = spawned.Process(target=_echo, args=(listener, num_answer_bytes), daemon=True)
    process.start()
    listener.close()
    try:
        yield address
    finally:
        process.terminate()
        process.join()


def _echo(listener: socket.socket, num_answer_bytes: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % num_answer_bytes
    answer += bytes(num_answer_bytes)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    pending: dict[socket.socket, bytearray] = {}
    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket), "only sockets are registered"
            if connection is listener:
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pending[accepted] = bytearray()
                selector.register(accepted, selectors.EVENT_READ)
                continue
            piece = connection.recv(_RECEIVE_BYTES)
            received = pending[connection]
            received += piece
            if not piece:
                selector.unregister(connection)
                del pending[connection]
                connection.close()
            elif _is_complete(received):
                received.clear()
                connection.sendall(answer)


def _is_complete(received: bytearray) -> bool:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    header = bytes(received[:end]).lower()
    at = header.index(b"content-length:") + len(b"content-length:")
    return len(received) >= end + 4 + int(header[at:].split(b"\r\n", 1)[0])


def _receive(connection: socket.socket) -> bytes:
    piece = connection.recv(_RECEIVE_BYTES)
    if not piece:
        raise ConnectionResetError("the server closed the connection")
    return piece
