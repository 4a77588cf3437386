"""Discard received bytes in the kernel, without copying them."""

import ctypes
import socket

_recv = ctypes.CDLL(None).recv
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t

_FLAGS = socket.MSG_TRUNC | socket.MSG_DONTWAIT if hasattr(socket, "MSG_TRUNC") else 0


def discard(fd: int, num_bytes: int) -> int:
    """Discard received bytes of a TCP socket; return the number of discarded bytes.

    Needs MSG_TRUNC of Linux: returns 0 for other kinds of sockets and on other systems.

    Args:
        fd: file descriptor of the socket.
        num_bytes: most bytes to discard.
    """
    num_discarded = 0
    while _FLAGS and num_discarded < num_bytes:
        received: int = _recv(fd, None, num_bytes - num_discarded, _FLAGS)
        if received <= 0:
            break
        num_discarded += received
    return num_discarded
