"""Names by which clients may address the service, in Host.

A page of any web site can let its own name point to 127.0.0.1 after it was loaded (DNS rebinding).
A browser then takes the service for a part of that site, and lets its scripts read the answers. The
name in Host is still that of the site, which has a dot.
"""

from ipaddress import ip_address

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of the own host, for a service that listens there."""


def allowed_hosts(bound: str, others: str | None) -> frozenset[bytes] | None:
    """Return the names that Host may have, without ports; None: any name.

    Args:
        bound: the address to listen on. On a loopback address the service has no other clients
            than those of the own host, and names are checked.
        others: more names, with commas between them. If there are any, names are checked on every
            address.
    """
    if not others and not is_loopback(bound):
        return None
    names = {name.strip().lower() for name in (*LOOPBACK, bound, *(others or "").split(","))} - {""}
    return frozenset(map(_in_host, names))


def is_allowed(name: bytes, names: frozenset[bytes]) -> bool:
    """Return whether a name in Host is among `names`, or cannot be that of a web site.

    A name without a dot, such as that of a container, belongs to no web site.
    """
    return name in names or not (b"." in name or b"[" in name)


def is_loopback(address: str) -> bool:
    """Return whether only the own host reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def name_of(host: bytes) -> bytes:
    """Return the name in a value of Host, without the port and in lower case."""
    name, colon, port = host.rpartition(b":")
    return (name if colon and b"]" not in port else host).lower()


def _in_host(name: str) -> bytes:
    """Return a name as Host has it: an address of IPv6 is in brackets."""
    return f"[{name.strip('[]')}]".encode() if ":" in name else name.encode()
