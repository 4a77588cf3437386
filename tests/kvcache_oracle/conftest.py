"""A service with two tenants and little memory, and a client of one of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.kvcache_oracle.remote import Remote, client_of, write_keys

KEY = "a key for the ids of the tests"


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys"), "ab")


@pytest.fixture(scope="session")
def two_tenants(serve: Serve, keys_file: Path) -> Iterator[str]:
    """The address of a service with the tenants a and b, 64 MiB for sessions, 8 sessions each."""
    settings = {
        "ROPE_KEYS_FILE": str(keys_file),
        "ROPE_SESSION_KEY": KEY,
        "ROPE_KV_BYTES": str(2**26),
        "ROPE_KV_PAGE_TOKENS": "4",
        "ROPE_MAX_SESSIONS": "8",
    }
    with serve(**settings) as started:
        yield started.url


@pytest.fixture(scope="session")
def open_service(serve: Serve) -> Iterator[str]:
    """The address of a service without keys, with small pages."""
    with serve(ROPE_KV_PAGE_TOKENS="4", ROPE_KV_BYTES=str(2**28)) as started:
        yield started.url


def _remote(url: str, tenant: str) -> Iterator[Remote]:
    with client_of(url, tenant) as client:
        remote = Remote(client)
        yield remote
        for each in remote.ask("GET", "/v1/sessions").params["sessions"]:
            remote.delete(each["id"])


@pytest.fixture
def remote(two_tenants: str) -> Iterator[Remote]:
    """Sessions of tenant a."""
    yield from _remote(two_tenants, "a")


@pytest.fixture
def other(two_tenants: str) -> Iterator[Remote]:
    """Sessions of tenant b."""
    yield from _remote(two_tenants, "b")
