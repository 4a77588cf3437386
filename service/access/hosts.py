"""Check the header Host against the names of the service, as a defence against DNS rebinding.

A web site can make its own name resolve to 127.0.0.1 after its page was loaded. The browser then
treats the service as a part of that site, and lets scripts of the page read the answers. Host still
has the name of the site, and this name has a dot.
"""

from ipaddress import ip_address

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this host that are always allowed."""


def allowed_hosts(bound: str, others: str | None) -> frozenset[bytes] | None:
    """Return the names that Host may have, without ports; None: every name is allowed.

    Args:
        bound: the address to listen on. On a loopback address names are always checked, because
            only clients of this host reach the service.
        others: more names, separated by commas. If given, names are checked on every address.
    """
    if not others and not is_loopback(bound):
        return None
    names = {name.strip().lower() for name in (*LOOPBACK, bound, *(others or "").split(","))} - {""}
    return frozenset(map(_in_host, names))


def is_allowed(name: bytes, names: frozenset[bytes]) -> bool:
    """Return whether Host may have a name: one of `names`, or one that no web site can have.

    A name without a dot, such as the name of a container, belongs to no web site.
    """
    return name in names or not (b"." in name or b"[" in name)


def is_loopback(address: str) -> bool:
    """Return whether an address is reachable from this host only."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def name_of(host: bytes) -> bytes:
    """Return the host name of a value of Host: without the port, in lower case."""
    name, colon, port = host.rpartition(b":")
    return (name if colon and b"]" not in port else host).lower()


def _in_host(name: str) -> bytes:
    """Return a name as it is written in Host: an IPv6 address in brackets."""
    return f"[{name.strip('[]')}]".encode() if ":" in name else name.encode()
