"""Where the WebSocket streams of a client connect to."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from rope_client.transport import Address


@dataclass(frozen=True, slots=True)
class StreamEndpoint:
    """Address, TLS and headers of streams."""

    address: Address
    tls: ssl.SSLContext | None
    """None: no TLS."""
    headers: Mapping[str, str]

    @classmethod
    def of(
        cls, address: Address, verify: ssl.SSLContext | bool, headers: Mapping[str, str]
    ) -> "StreamEndpoint":
        """Return the endpoint of a client; `verify` is as httpx takes it."""
        tls = None
        if address.url.startswith("https:"):
            tls = verify if isinstance(verify, ssl.SSLContext) else ssl.create_default_context()
        return cls(address, tls, headers)

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return self.address.url.rstrip("/") + path

    @property
    def host(self) -> str:
        """Name of the host, for TCP and TLS."""
        return urlsplit(self.address.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of the host."""
        return urlsplit(self.address.url).port or (443 if self.tls else 80)
