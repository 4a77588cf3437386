"""The text of an error that stops a listener: the setting, the address, and what to do."""

import errno
import socket

from service.errors import printable


def cannot_listen(setting: str, host: str, port: int, failure: OSError) -> OSError:
    """Return the error to show for a port that cannot be opened.

    Args:
        setting: variable of the port.
        host: address of `ROPE_HTTP_HOST`.
        port: the port.
        failure: of the system.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = failure.strerror or str(failure)
    remedy = f"choose another port with {setting}, or 0 for a free one"
    if failure.errno == errno.EADDRINUSE:
        reason = "another process listens there"
        remedy += "; a second service needs its own ROPE_HTTP_PORT and ROPE_GRPC_PORT"
    elif failure.errno == errno.EACCES:
        reason = "this user may not open the port"
    elif isinstance(failure, socket.gaierror) or failure.errno == errno.EADDRNOTAVAIL:
        remedy = "ROPE_HTTP_HOST must be an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    return OSError(failure.errno, f"cannot listen on {printable(address)}: {reason}; {remedy}")
