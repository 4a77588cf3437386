"""TLS credentials for the core of grpcio."""

import grpc

from service.access.certificates import Certificate, Certificates


def dynamic_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that use the current certificate for each new connection.

    The core calls `fetch` on a thread of its own.
    """
    last = certificates.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        current = certificates.current()
        if current is last:
            return None
        last = current
        return _configuration(current)

    requires_client = last.client_ca_pem is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(last), fetch, requires_client)


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pair = certificate.key_pem, certificate.chain_pem
    return grpc.ssl_server_certificate_configuration([pair], certificate.client_ca_pem)
