"""Host: on a loopback address only names of this host are allowed, against DNS rebinding."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.access.exposure import exposure_warning
from service.access.hosts import allowed_hosts, is_loopback, name_of
from service.server.unix_socket import UnixSocket
from service.settings import Settings
from tests.service.planned.requests import Client, rotation
from tests.service.planned.servers import Running, running

in_one_loop = pytest.mark.asyncio(loop_scope="module")

OWN = {b"localhost", b"127.0.0.1", b"[::1]"}


@pytest.mark.parametrize(
    ("bound", "others", "allowed"),
    [
        ("127.0.0.1", "", OWN),
        ("localhost", "", OWN),
        ("::1", "", OWN),
        ("127.0.0.2", "", OWN | {b"127.0.0.2"}),
        ("127.0.0.1", "Rope.example, [fd00::1]", OWN | {b"rope.example", b"[fd00::1]"}),
        ("0.0.0.0", "", None),
        ("::", "", None),
        ("10.0.0.1", "", None),
        ("10.0.0.1", "rope.example", OWN | {b"10.0.0.1", b"rope.example"}),
    ],
)
def test_allowed_hosts(bound, others, allowed):
    assert allowed_hosts(bound, others) == allowed
    assert Settings(http_host=bound, allowed_hosts=others).allowed_hosts == others


@pytest.mark.parametrize("names", [",", "a,", "a b", "a:80", "http://a", "a/b", "[x]"])
def test_the_setting_accepts_host_names_only(names):
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts=names)


def test_the_port_in_host_is_ignored():
    hosts = (b"A.example:80", b"a.example", b"[::1]:8000", b"[::1]", b"a:", b"")
    assert [*map(name_of, hosts)] == [b"a.example"] * 2 + [b"[::1]"] * 2 + [b"a", b""]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    async with running(allowed_hosts="rope.example") as running_service:
        yield running_service


@in_one_loop
@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST:8000")],
        *[(host, 200) for host in ("rope.example", "Rope.Example:80", "rope:8000")],
        *[(host, 400) for host in ("evil.example", "evil.example:8000", "[::2]", "10.0.0.1")],
        *[(host, 400) for host in ("localhost.evil.example", "127.0.0.1.nip.io", "localhost.")],
    ],
)
async def test_host_must_be_an_allowed_name(service: Running, host: str, status: int):
    exchange = rotation(16, host=host)
    num_planned = len(service.statuses)
    for _ in range(3):  # the third one has a plan, if it may have one
        client = await Client.connect(service.address)
        answer = await client.ask(exchange.request)
        assert answer.status == status
        if status == 400:
            assert b'"code":"bad_header"' in answer.body
            assert await client.reader.read() == b"", "the connection is closed"
        health = f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
        client.leave()
        client = await Client.connect(service.address)
        assert (await client.ask(health)).status == 200, "probes use any name"
        client.leave()
    assert (len(service.statuses) > num_planned) == (status == 200)


@in_one_loop
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_request_without_a_host_name_is_allowed(service: Running, version: str):
    field = "" if version == "1.0" else "host:\r\n"
    client = await Client.connect(service.address)
    request = f"GET /v1/presets HTTP/{version}\r\n{field}\r\n".encode()
    assert (await client.ask(request)).status == 200
    client.leave()


@in_one_loop
async def test_host_is_not_checked_on_a_unix_socket(service: Running, tmp_path: Path):
    unix_socket = UnixSocket(tmp_path / "rope.sock")
    server = service.server
    server._accept([unix_socket.socket], server._plain_protocol, server._pacer)
    exchange = rotation(16, host="other.example")
    for path in (str(tmp_path / "rope.sock"), None) * 3:
        client = await (Client.connect_unix(path) if path else Client.connect(service.address))
        assert (await client.ask(exchange.request)).status == (200 if path else 400)
        client.leave()
    unix_socket.remove()
    server.servers.pop().close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_no_warning(address):
    assert is_loopback(address)
    assert exposure_warning(address, has_keys=False, has_tls=False) is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "rope.example"])
def test_the_warning_names_what_is_missing(address):
    neither = exposure_warning(address, has_keys=False, has_tls=False)
    no_keys = exposure_warning(address, has_keys=False, has_tls=True)
    no_tls = exposure_warning(address, has_keys=True, has_tls=False)
    assert exposure_warning(address, has_keys=True, has_tls=True) is None
    for text, has_keys, has_tls in ((neither, 0, 0), (no_keys, 0, 1), (no_tls, 1, 0)):
        assert text is not None
        assert "\n" not in text
        assert f"on {address} " in text
        assert ("ROPE_KEYS_FILE" in text) == (not has_keys)
        assert ("ROPE_TLS_CERT_FILE" in text) == (not has_tls)
