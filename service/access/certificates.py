"""The certificate of the service, its key, and the authority of client certificates."""

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
    """The files of TLS cannot be used; the message names them and the reason."""


class TlsFiles(NamedTuple):
    """Files in PEM."""

    certificate: Path
    """The certificate, and those between it and its root."""
    key: Path
    client_ca: Path | None = None
    """Certificates of authorities, one of which must have signed the certificate of a client;
    None: clients need none."""


class Certificate(NamedTuple):
    """What the files hold."""

    context: ssl.SSLContext
    chain_pem: bytes
    key_pem: bytes
    client_ca_pem: bytes | None


class Certificates:
    """The certificate for new connections: the files are read again when they change.

    Files that cannot be used are logged, and the last certificate stays. Threads may share it.

    Args:
        files: where the certificate is.
        clock: returns seconds.

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
        """Return the certificate for a new connection; a changed file is read first."""
        if self._lock.acquire(blocking=False):  # else another thread reads the files
            try:
                if self._watched.have_changed(self._clock()):
                    self._reload()
            finally:
                self._lock.release()
        return self._certificate

    def reload(self) -> None:
        """Read the files."""
        with self._lock:
            self._reload()

    def _reload(self) -> None:
        try:
            self._certificate = load(self._files)
        except CertificateError as failure:
            log.error("the certificate stays as it was: %s", failure)  # noqa: TRY400
        else:
            log.info("the certificate was loaded again")


def load(files: TlsFiles) -> Certificate:
    """Return what the files hold.

    Raises:
        CertificateError: they cannot be used.
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
        raise CertificateError(f"{pair} are no certificate and its key: {failure}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as failure:
            raise CertificateError(f"{files.client_ca} has no certificate: {failure}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Certificate(context, chain, key, client_ca)


def _refuse_password() -> str:
    """Raise, because OpenSSL would ask for the password at the terminal."""
    raise ValueError("the key is encrypted")
