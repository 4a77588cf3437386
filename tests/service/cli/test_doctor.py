"""`doctor`: each check can fail, and then says what to do."""

import json
import socket

import pytest
import torch

from service.cli.commands import doctor
from service.device import cgroup
from tests.free_ports import free_ports


@pytest.fixture(autouse=True)
def ports(monkeypatch):
    http, grpc = free_ports(2)
    monkeypatch.setenv("ROPE_HTTP_PORT", str(http))
    monkeypatch.setenv("ROPE_GRPC_PORT", str(grpc))
    return http, grpc


def failed(cli):
    ended = cli("doctor", "--json")
    report = json.loads(ended.out)
    bad = {check["name"]: check for check in report["checks"] if not check["ok"]}
    assert ended.code == (1 if bad else 0)
    assert report["ok"] == (not bad)
    assert all(check["remedy"] for check in bad.values())
    return bad


def test_a_machine_that_is_well(cli):
    assert failed(cli) == {}
    shown = cli("doctor").out.splitlines()
    assert all(line.startswith("✓ ") for line in shown)
    for name in ("torch", "device", "triton", "threads", "memory", "http_port", "rotation"):
        assert any(name in line for line in shown)


def test_a_port_in_use(cli, ports):
    with socket.create_server(("127.0.0.1", ports[0])):
        assert failed(cli).keys() == {"http_port"}
        ended = cli("doctor")
    assert f"✗ http_port          cannot listen on 127.0.0.1:{ports[0]}" in ended.out
    assert "→ choose another port with ROPE_HTTP_PORT" in ended.out


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("ROPE_HTP_PORT", "1", "settings"),
        ("ROPE_DRAIN_S", "soon", "settings"),
        ("ROPE_DEVICE", "cuda", "device"),
        ("ROPE_THREADS", "10000", "threads"),
        ("ROPE_MEMORY_BUDGET_BYTES", str(2**60), "memory"),
        ("ROPE_PRESETS_DIR", "/no/such/folder", "presets"),
    ],
)
def test_a_wrong_setting(cli, monkeypatch, name, value, check):
    if name == "ROPE_DEVICE" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv(name, value)
    assert failed(cli).keys() - {"http_port", "grpc_port"} == {check}


def test_a_preset_that_is_refused_and_little_memory(cli, monkeypatch, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setenv("ROPE_PRESETS_DIR", str(tmp_path))
    monkeypatch.setattr(cgroup, "memory_bytes", lambda: 2**30)
    bad = failed(cli)
    assert bad.keys() == {"presets", "memory"}
    assert "broken.json must be a JSON object" in bad["presets"]["remedy"]


def test_a_rotation_that_is_wrong(cli, monkeypatch):
    monkeypatch.setattr(doctor, "rotate", lambda q, **arguments: q)
    assert failed(cli).keys() == {"rotation"}
