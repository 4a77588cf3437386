"""Two replicas and HAProxy, shared by the tests of a file."""

from collections.abc import Iterator

import pytest

from tests.deploy.rolling.replicas import NAMES, Haproxy, Replica, find_haproxy, haproxy


@pytest.fixture(scope="session", autouse=True)
def has_haproxy() -> None:
    if find_haproxy() is None:
        pytest.skip("haproxy is not installed (Debian: haproxy)")


@pytest.fixture(scope="session")
def replicas(
    has_haproxy: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("replicas")
    made = [Replica(name, folder / f"{name}.log") for name in NAMES]
    try:
        made[0].launch(
            ROPE_DRAIN_DELAY_S="4"
        )  # long enough for the requests of test_upgrade.py during the drain
        made[1].launch()
        for replica in made:
            replica.wait()
        yield made
    finally:
        for replica in made:
            replica.kill()


@pytest.fixture(scope="module")
def proxy(replicas: list[Replica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    log = tmp_path_factory.mktemp("haproxy") / "haproxy.log"
    with haproxy(replicas, log) as started:
        yield started
