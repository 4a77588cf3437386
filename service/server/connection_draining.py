"""Close a listening socket without resetting connections that clients already have.

`close` resets connections that wait to be accepted. For their clients these connections are open,
and a request has often been sent already. So stop handshakes first, then accept all waiting
connections, then call `close`: each client is either served or never connected.
"""

import asyncio
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import termios
from array import array
from collections.abc import Sequence
from contextlib import suppress

SO_ATTACH_FILTER = 26  # of Linux; the module socket has no name for it

# A classic BPF program: (code, jump if true, jump if false, operand). The filter of a TCP socket
# sees a segment from its TCP header on.
DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # then drop the segment
    (0x06, 0, 0, 0xFFFFFFFF),  # else pass all of it
)

LAST_RECEIVED = slice(52, 56)
"""Bytes of Linux's `struct tcp_info`: milliseconds since the last segment with data arrived."""

ACCEPT_ROUNDS = 1000
"""Iterations of the event loop to wait, at most: accepting may fail, or handshakes may go on."""


def stop_handshakes(listener: socket.socket) -> None:
    """Make the kernel drop SYN segments: clients send them again, and are refused after `close`.

    Handshakes that have begun still complete. Does nothing where the kernel has no socket filters.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
    program = struct.pack("HP", len(DROP_SYN), ctypes.addressof(code))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def has_unread_bytes(transport: asyncio.Transport) -> bool:
    """Return whether a client has sent bytes that were not read yet.

    Closing a connection with unread bytes resets it: a request would be lost silently.
    """
    if transport.is_closing():
        return False
    if transport.get_extra_info("has_undelivered_bytes"):  # of a TLS record
        return True
    unread = array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
    return unread[0] > 0


def seconds_unread(transport: asyncio.Transport) -> float:
    """Return the seconds that unread bytes have waited in the kernel; 0 if unknown.

    Linux reports the arrival of the last segment. This is an underestimate for a request that
    arrived in several segments.
    """
    connection = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        return 0.0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_RECEIVED.stop)
    except (AttributeError, OSError):
        return 0.0
    return int.from_bytes(info[LAST_RECEIVED], sys.byteorder) / 1e3


def close_idle(transport: asyncio.Transport) -> None:
    """Close a connection without unread bytes, and send the FIN at once.

    `transport.close` alone closes in the next iteration of the event loop. A request that arrives
    before that would reset the connection. A client that has received the FIN opens another
    connection.
    """
    is_plain = transport.get_extra_info("sslcontext") is None
    if is_plain and not transport.get_write_buffer_size():  # the last answer is sent completely
        fd = transport.get_extra_info("socket").fileno()
        with (
            suppress(OSError),
            socket.socket(fileno=os.dup(fd)) as same,
        ):  # the client may have left
            same.shutdown(socket.SHUT_WR)
    transport.close()


async def accept_pending(listeners: Sequence[socket.socket]) -> None:
    """Wait until the event loop has accepted all waiting connections, for ACCEPT_ROUNDS at most."""
    pending = select.poll()
    for listener in listeners:
        pending.register(listener.fileno(), select.POLLIN)
    for _ in range(ACCEPT_ROUNDS):
        if not pending.poll(0):
            return
        await asyncio.sleep(0)  # the loop polls its sockets once per iteration
