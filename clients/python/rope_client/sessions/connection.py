"""A blocking connection of a stream."""

import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from rope_client.call import Response
from rope_client.errors import ConnectionFailed, TimedOut
from rope_client.sessions.endpoint import StreamEndpoint
from rope_client.sessions.frames import READ_BYTES, Frames
from rope_client.transport import CONNECT_TIMEOUT_S, lasting_if_tls

T = TypeVar("T")


class Connection:
    """An open stream: one message is sent, and one answer is awaited.

    Args:
        endpoint: of the service.
        path: of the stream.
        headers: further headers of the handshake.
        timeout_s: for the connection and the handshake.

    Raises:
        RopeClientError: there is no connection, or the handshake was refused.
    """

    def __init__(
        self, endpoint: StreamEndpoint, path: str, headers: Mapping[str, str], timeout_s: float
    ) -> None:
        deadline_s = time.monotonic() + timeout_s
        self._frames = Frames(endpoint.url(path), {**endpoint.headers, **headers})
        try:
            self._socket = _connect(endpoint, min(timeout_s, CONNECT_TIMEOUT_S))
        except OSError as error:
            failure = ConnectionFailed(f"no connection to {endpoint.address.text}: {error!r}")
            raise lasting_if_tls(failure, error) from error
        try:
            self._write(deadline_s)
            while not self._frames.is_open:
                self._read(deadline_s)
                self._frames.answer()  # raises if the handshake was refused
        except BaseException:
            self.close()
            raise

    def exchange(self, content: bytes, timeout_s: float) -> Response:
        """Send a message and return its answer.

        Raises:
            RopeClientError: the connection cannot be used any more.
        """
        deadline_s = time.monotonic() + timeout_s
        self._frames.send(content)
        self._write(deadline_s)
        while True:
            answer = self._frames.answer()
            if answer is not None:
                return answer
            self._read(deadline_s)

    def close(self) -> None:
        """Close the connection, without waiting for the service."""
        try:
            self._frames.close()
            self._socket.settimeout(0.2)
            self._socket.sendall(self._frames.bytes_to_send())
        except OSError:
            pass  # the service has closed it
        finally:
            self._socket.close()

    def _write(self, deadline_s: float) -> None:
        data = self._frames.bytes_to_send()
        if data:
            self._run(deadline_s, lambda: self._socket.sendall(data))

    def _read(self, deadline_s: float) -> None:
        self._frames.receive(self._run(deadline_s, lambda: self._socket.recv(READ_BYTES)))
        self._write(deadline_s)  # pongs

    def _run(self, deadline_s: float, use: Callable[[], T]) -> T:
        left_s = deadline_s - time.monotonic()
        try:
            self._socket.settimeout(max(left_s, 1e-3))  # 0 means non-blocking
            return use()
        except TimeoutError as error:
            raise TimedOut(f"no answer in time on the stream: {error}") from error
        except OSError as error:
            raise ConnectionFailed(f"the stream broke: {error}") from error


def _connect(endpoint: StreamEndpoint, timeout_s: float) -> socket.socket:
    if endpoint.address.socket_path is not None:
        unix = socket.socket(socket.AF_UNIX)
        try:
            unix.settimeout(timeout_s)
            unix.connect(endpoint.address.socket_path)
        except BaseException:
            unix.close()
            raise
        return unix
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.tls is None:
            return plain
        return endpoint.tls.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise
