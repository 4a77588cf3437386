"""An asynchronous connection of a stream, for asyncio and trio."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import anyio
from anyio.abc import ByteStream

from rope_client.call import Response
from rope_client.errors import ConnectionFailed, TimedOut
from rope_client.sessions.endpoint import StreamEndpoint
from rope_client.sessions.frames import READ_BYTES, Frames
from rope_client.transport import CONNECT_TIMEOUT_S, lasting_if_tls


class AsyncConnection:
    """An open stream: one message is sent, and one answer is awaited."""

    def __init__(self, stream: ByteStream, frames: Frames) -> None:
        self._stream = stream
        self._frames = frames

    @classmethod
    async def open(
        cls, endpoint: StreamEndpoint, path: str, headers: Mapping[str, str], timeout_s: float
    ) -> "AsyncConnection":
        """Connect.

        Raises:
            RopeClientError: there is no connection, or the handshake was refused.
        """
        frames = Frames(endpoint.url(path), {**endpoint.headers, **headers})
        try:
            with anyio.fail_after(min(timeout_s, CONNECT_TIMEOUT_S)):
                stream = await _connect(endpoint)
        except (OSError, TimeoutError) as error:
            failure = ConnectionFailed(f"no connection to {endpoint.address.text}: {error!r}")
            raise lasting_if_tls(failure, error) from error
        connection = cls(stream, frames)
        try:
            with _deadline(timeout_s):
                await connection._write()
                while not frames.is_open:
                    await connection._read()
                    frames.answer()  # raises if the handshake was refused
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def exchange(self, content: bytes, timeout_s: float) -> Response:
        """Send a message and return its answer.

        Raises:
            RopeClientError: the connection cannot be used any more.
        """
        with _deadline(timeout_s):
            self._frames.send(content)
            await self._write()
            while True:
                answer = self._frames.answer()
                if answer is not None:
                    return answer
                await self._read()

    async def aclose(self) -> None:
        """Close the connection, without waiting for the service."""
        self._frames.close()
        with anyio.move_on_after(0.2, shield=True), suppress(anyio.BrokenResourceError, OSError):
            await self._stream.send(self._frames.bytes_to_send())
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.aclose_forcefully(self._stream)

    async def _write(self) -> None:
        data = self._frames.bytes_to_send()
        if data:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise ConnectionFailed(f"the stream broke: {error!r}") from error

    async def _read(self) -> None:
        try:
            data = await self._stream.receive(READ_BYTES)
        except anyio.EndOfStream:
            data = b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise ConnectionFailed(f"the stream broke: {error!r}") from error
        self._frames.receive(data)
        await self._write()  # pongs


async def _connect(endpoint: StreamEndpoint) -> ByteStream:
    if endpoint.address.socket_path is not None:
        return await anyio.connect_unix(endpoint.address.socket_path)
    if endpoint.tls is None:
        return await anyio.connect_tcp(endpoint.host, endpoint.port)
    return await anyio.connect_tcp(
        endpoint.host, endpoint.port, ssl_context=endpoint.tls, tls_standard_compatible=False
    )


@contextmanager
def _deadline(timeout_s: float) -> Iterator[None]:
    try:
        with anyio.fail_after(timeout_s):
            yield
    except TimeoutError as error:
        raise TimedOut("no answer in time on the stream") from error
