"""Load the TLS certificate of the service, its private key, and the CAs of clients."""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from service.access.watched_file import WatchedFiles

log = logging.getLogger("rope.tls")


class CertificateError(Exception):
    """A TLS file cannot be used; the message names the file and the reason."""


class TlsFiles(NamedTuple):
    """Paths of TLS files, all in PEM."""

    certificate: Path
    """The certificate, followed by the intermediate certificates."""
    key: Path
    client_ca: Path | None = None
    """CA certificates: one of these CAs must have signed the certificate of a client. None: clients
    need no certificate."""


class Certificate(NamedTuple):
    """A loaded certificate: as a context for HTTP, and in PEM for gRPC."""

    context: ssl.SSLContext
    chain_pem: bytes
    key_pem: bytes
    client_ca_pem: bytes | None


class Certificates:
    """The certificate for new connections, which is reloaded when its files change.

    If the changed files cannot be used, an error is logged and the last certificate stays in use.
    Thread-safe.

    Args:
        files: paths of the certificate, the key and the CAs.
        clock: returns monotonic seconds.

    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, files: TlsFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._watched = WatchedFiles(filter(None, files), clock())
        self._certificate = load(files)
        self._lock = Lock()

    def current(self) -> Certificate:
        """Return the certificate for a new connection; reload changed files first."""
        if self._lock.acquire(blocking=False):  # else another thread reads the files
            try:
                if self._watched.have_changed(self._clock()):
                    self._reload()
            finally:
                self._lock.release()
        return self._certificate

    def reload(self) -> None:
        """Reload the files, whether or not they have changed."""
        with self._lock:
            self._reload()

    def _reload(self) -> None:
        try:
            self._certificate = load(self._files)
        except CertificateError as failure:
            log.error("the certificate was not reloaded, the last one stays in use: %s", failure)  # noqa: TRY400
        else:
            log.info("the certificate was reloaded")


def load(files: TlsFiles) -> Certificate:
    """Load the files.

    Raises:
        CertificateError: a file cannot be read, or is not valid.
    """
    try:
        chain, key = files.certificate.read_bytes(), files.key.read_bytes()
        client_ca = None if files.client_ca is None else files.client_ca.read_bytes()
    except OSError as failure:
        raise CertificateError(f"cannot read {failure.filename}: {failure.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
    except (OSError, ValueError) as failure:
        pair = f"{files.certificate} and {files.key}"
        raise CertificateError(
            f"{pair} are not a certificate and its private key: {failure}"
        ) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as failure:
            raise CertificateError(
                f"{files.client_ca} is not a file of CA certificates: {failure}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Certificate(context, chain, key, client_ca)


def _refuse_password() -> str:
    """Raise ValueError: without this callback OpenSSL asks for the password at the terminal."""
    raise ValueError("the key is encrypted")
