"""A client of a TLS port, for tests that send records in any pieces."""

import asyncio
import socket
import ssl

from tests.service.certificates import Authority
from tests.service.planned.servers import Running


class TlsClient:
    """Encrypts in memory, so that a test decides which bytes are sent together."""

    def __init__(self, service: Running, authority: Authority) -> None:
        self._address = service.address
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = authority.client_context().wrap_bio(
            self._received, self._sent, server_hostname="localhost"
        )
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        self.socket.setblocking(False)

    async def __aenter__(self) -> "TlsClient":
        await asyncio.get_running_loop().sock_connect(self.socket, self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send(self._sent.read())
                await self._receive()
            else:
                await self.send(self._sent.read())
                return

    def encrypt(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._sent.read()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self) -> bytes:
        """Return the next bytes of an answer; none at the end."""
        while True:
            try:
                return self._tls.read(2**16)
            except ssl.SSLWantReadError:
                await self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    async def _receive(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 2**16)
        if not data:
            raise ConnectionResetError("TCP ends without an end of TLS")
        self._received.write(data)

    async def read_until(self, end: bytes) -> bytes:
        answer = b""
        while not answer.endswith(end):
            answer += await self.read()
        return answer
