"""The warning at the start of a service that other hosts can reach without keys or TLS."""

from service.access.hosts import is_loopback


def exposure_warning(address: str, *, has_keys: bool, has_tls: bool) -> str | None:
    """Return the warning and its remedy, in one line.

    None: the address is a loopback address, or the service has both keys and TLS.
    """
    if is_loopback(address) or (has_keys and has_tls):
        return None
    risks, remedies = [], []
    if not has_keys:
        risks.append("no API keys: each client that reaches the ports may use all routes")
        remedies.append("ROPE_KEYS_FILE")
    if not has_tls:
        risks.append("no TLS: others on the network can read tensors and keys")
        remedies.append("ROPE_TLS_CERT_FILE and ROPE_TLS_KEY_FILE")
    return (
        f"the service listens on {address} with {' and '.join(risks)}. Set "
        f"{' and '.join(remedies)}, or let only "
        "trusted hosts reach the ports (in a container: publish them as 127.0.0.1:8000:8000, or "
        "restrict them by a network policy)"
    )
