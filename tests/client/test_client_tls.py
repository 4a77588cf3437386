"""TLS options of the client, against a service that requires client certificates."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from rope_client import AsyncClient, Client, ConnectionFailed, RetryPolicy
from service.access.certificates import Certificates
from tests.service.certificates import Authority
from tests.service.planned.servers import running

Q = np.ones((1, 1, 1, 2), dtype=np.float32)
ONCE = RetryPolicy(max_attempts=1)


async def test_the_files_of_a_client(tmp_path: Path):
    authority = Authority(tmp_path)
    files, own = authority.issue("service"), authority.issue("client")
    async with running(certificates=Certificates(files._replace(client_ca=authority.file))) as made:
        url = "https://localhost:{1}".format(*made.address)
        for options in ({}, {"ca_file": authority.file}):
            async with AsyncClient(url, retry=ONCE, **options) as client:
                with pytest.raises(ConnectionFailed):
                    await client.rotate(q=Q, positions=[0])
        cert = own.certificate, own.key
        async with AsyncClient(url, ca_file=authority.file, client_cert=cert) as client:
            assert (await client.rotate(q=Q, positions=[0])).q.tobytes() == Q.tobytes()


def test_tls_files_cannot_be_combined_with_a_transport(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be combined with 'transport'"):
        Client(ca_file=tmp_path, transport=httpx.HTTPTransport())
