"""Which clients may read the metrics of all replicas."""

import pytest
from rope_ray.scrape import scrape

from service.lifecycle import Lifecycle
from service.server.bootstrap import build_service
from service.settings import Settings
from tests.service.access.keys_files import INFER, METRICS, write_all


@pytest.fixture
def build(tmp_path):
    """Build a service that has keys, or none."""
    threads = []

    def build(*, has_keys):
        keys_file = write_all(tmp_path / "keys.toml") if has_keys else None
        service, device_threads = build_service(
            Settings(device="cpu", keys_file=keys_file), Lifecycle()
        )
        threads.extend([device_threads, service.io_executor])
        return service

    yield build
    for executor in threads:
        executor.shutdown(wait=False)


def test_without_keys_all_clients_may(build):
    name, page, refusal = scrape(build(has_keys=False), "a", [])
    assert (name, refusal) == ("a", None)
    assert "# TYPE rope_ready gauge" in page


def test_with_keys_the_scope_metrics_is_needed(build):
    service = build(has_keys=True)
    for keys, status in [([], 401), (["other"], 401), ([INFER], 403), ([METRICS] * 2, 401)]:
        authorization = [f"Bearer {key}".encode() for key in keys]
        _, page, refusal = scrape(service, "a", authorization)
        assert (page, refusal.status) == ("", status)
        assert (b"content-type", b"application/problem+json") in refusal.headers
    assert scrape(service, "a", [f"Bearer {METRICS}".encode()]).page
