"""A DNS server that answers as Docker's does: addresses of containers, which may change."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

A = 1
NO_SUCH_NAME = 3


@contextmanager
def dns_server(address: tuple[str, int]) -> Iterator[dict[str, str]]:
    """Answer questions for IPv4 addresses over UDP; yield the names, which may be changed."""
    names: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(0.1)
        ends = threading.Event()

        def serve() -> None:
            while not ends.is_set():
                try:
                    query, client = server.recvfrom(512)
                except TimeoutError:
                    continue
                server.sendto(_answer(query, names), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield names
        finally:
            ends.set()
            thread.join()


def _answer(query: bytes, names: dict[str, str]) -> bytes:
    end, labels = 12, []
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode())
        end += 1 + query[end]
    question = query[12 : end + 5]
    [kind] = struct.unpack("!H", question[-4:-2])
    found = names.get(".".join(labels))
    records = b""
    if found and kind == A:
        records = struct.pack("!HHHIH", 0xC00C, A, 1, 1, 4) + socket.inet_aton(found)
    flags = 0x8180 | (0 if found else NO_SUCH_NAME)
    header = query[:2] + struct.pack("!HHHHH", flags, 1, bool(records), 0, 0)
    return header + question + records
