"""The settings of a replica."""

import pytest
from rope_ray.settings import replica_settings


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch):
    monkeypatch.delenv("ROPE_THREADS", raising=False)  # parallel tests set it


def test_what_differs_from_one_replica_to_another(monkeypatch):
    monkeypatch.setenv("ROPE_HTTP_PORT", "8000")
    monkeypatch.setenv("ROPE_MAX_SESSIONS", "7")
    settings = replica_settings("e3tork6l", host="10.0.0.7", num_cpus=2.5)
    assert (settings.session_owner, settings.http_host, settings.http_port) == (
        "e3tork6l",
        "10.0.0.7",
        0,
    )
    assert (settings.threads, settings.max_sessions) == (2, 7)


def test_half_a_cpu_is_one_thread_and_the_own_port_is_on_loopback():
    settings = replica_settings("a", host=None, num_cpus=0.5)
    assert (settings.threads, settings.http_host) == (1, "127.0.0.1")


@pytest.mark.parametrize(("setting", "sessions"), [("on", "off"), ("open", "open")])
def test_sessions_without_keys_are_off_unless_open(monkeypatch, setting, sessions):
    monkeypatch.setenv("ROPE_SESSIONS", setting)
    assert replica_settings("a", host=None, num_cpus=1).sessions == sessions


def test_sessions_with_keys_are_on(monkeypatch, tmp_path):
    monkeypatch.setenv("ROPE_KEYS_FILE", str(tmp_path / "keys.toml"))
    assert replica_settings("a", host=None, num_cpus=1).sessions == "on"


@pytest.mark.parametrize("name", ["ROPE_STATUS_PORT", "ROPE_UNIX_SOCKET"])
def test_what_replicas_of_a_node_would_share_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "8002")
    with pytest.raises(ValueError, match=f"^{name} is not for Ray"):
        replica_settings("a", host=None, num_cpus=1)
