"""The units of systemd, and the page about one machine."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.exit_codes import (
    DEVICE_LOST,
    DEVICE_STUCK,
    EXIT_CODES,
    START_FAILED,
    WRONG_SETTING,
)
from service.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.deploy.rolling.replicas import find_haproxy
from tests.guide import Guide, blocks

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PAGE = (ROOT / "docs" / "deploy" / "single-machine.md").read_text()
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
EXPOSURE = {"rope-service@.service": 2.0}
"""Largest exposure by `systemd-analyze security`. The unit for Docker is not here: it is root."""


def lines(unit: Path) -> dict[str, str]:
    """Return the settings of a unit; the last one of a name that repeats."""
    joined = unit.read_text().replace("\\\n", " ")
    return dict(re.findall(r"^(\w+)=(.*)$", joined, re.MULTILINE))


def variables(file: Path) -> dict[str, str]:
    """Return the variables of an environment file."""
    return dict(re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE))


@pytest.fixture
def instance(tmp_path):
    """Write a unit as instance 1, with /bin/true as its program."""

    def write(unit: Path) -> Path:
        text = re.sub(
            r"/opt/rope/%i/bin/rope-service|/usr/bin/docker", "/bin/true", unit.read_text()
        )
        (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
        copy = tmp_path / unit.name.replace("@", "@1")
        copy.write_text(text)
        return copy

    return write


def analyze(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    command = [ANALYZE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_no_fault_in_a_unit(unit, instance):
    copy = instance(unit)
    done = analyze("verify", "--man=no", copy, folder=copy.parent)
    messages = [line for line in done.stderr.splitlines() if copy.name in line]
    assert not messages
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_systemd_finds_an_unknown_setting(instance):
    copy = instance(UNITS[0])
    copy.write_text(copy.read_text() + "[Service]\nNoSuchSetting=1\n")
    assert "NoSuchSetting" in analyze("verify", "--man=no", copy, folder=copy.parent).stderr


@needs_systemd
@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_permits_little(name, instance):
    copy = instance(FOLDER / name)
    threshold = f"--threshold={int(10 * EXPOSURE[name])}"
    done = analyze("security", "--offline=true", threshold, copy, folder=copy.parent)
    assert done.returncode == 0, done.stdout
    found = re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert f"gives `rope-service@` {found[1]} of 10" in PAGE


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_waits_for_the_drain_and_starts_again_after_a_failed_device(unit):
    options = lines(unit)
    drain_s = sum(Settings.model_fields[name].default for name in ("drain_delay_s", "drain_s"))
    assert int(options["TimeoutStopSec"]) > drain_s
    assert options["Restart"] == "on-failure"
    never = {int(code) for code in options["RestartPreventExitStatus"].split()}
    fine = {int(code) for code in options["SuccessExitStatus"].split()}
    assert never == {WRONG_SETTING}
    assert fine < EXIT_CODES.keys()
    assert not {DEVICE_LOST, DEVICE_STUCK, START_FAILED} & fine
    if "ExecStop" in options:
        assert f"--time {int(options['TimeoutStopSec']) - 10} " in options["ExecStop"]


@pytest.mark.parametrize("number", [1, 2])
def test_instances_have_ports_of_their_own_that_haproxy_knows(number):
    own, haproxy = variables(FOLDER / f"{number}.env"), variables(FOLDER / "haproxy.env")
    assert own["ROPE_SESSION_OWNER"] == f"rope-{number}"
    assert own["ROPE_HTTP_HOST"] == haproxy[f"ROPE_{number}"]
    for name in ("ROPE_HTTP_PORT", "ROPE_GRPC_PORT", "ROPE_STATUS_PORT"):
        assert haproxy[f"{name}_{number}"] == own[name]
    other = variables(FOLDER / f"{3 - number}.env")
    assert not {own[n] for n in own if n.endswith("_PORT")} & {*other.values()}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {name for name in own if name.startswith(PREFIX)} <= known


@pytest.mark.skipif(find_haproxy() is None, reason="haproxy is not installed")
def test_haproxy_takes_the_ports_of_one_machine():
    config = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
    used = {*re.findall(r'\$\{(\w+)\}|"\$(\w+)"|presetenv (\w+)', config.read_text())}
    names = {name for found in used for name in found if name}
    values = variables(FOLDER / "haproxy.env")
    assert values.keys() <= names
    command = [find_haproxy(), "-c", "-f", config]
    done = subprocess.run(
        command, env={**os.environ, **values}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def post_start(unit: Path) -> list[str]:
    """Return the command that waits until an instance is ready, as systemd runs it."""
    found = re.fullmatch(r"/bin/sh -c '(.+)'", lines(unit)["ExecStartPost"])
    return ["/bin/sh", "-c", found[1].replace("$$", "$")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_start_ends_when_the_instance_is_ready(unit, server):
    port = server.url.rpartition(":")[2]
    environment = {**os.environ, "ROPE_STATUS_PORT": port, "MAINPID": str(os.getpid())}
    subprocess.run(post_start(unit), env=environment, check=True, timeout=30)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_start_fails_with_its_process(unit):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        environment = {**os.environ, "ROPE_STATUS_PORT": port, "MAINPID": str(ended.pid)}
        done = subprocess.run(
            post_start(unit), env=environment, check=False, timeout=30, capture_output=True
        )
    assert done.returncode == 1


ROOT_BLOCKS = [block for kind, block in blocks(PAGE) if kind == "sh"]


def test_the_page_runs(server_url, serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = re.sub(r"^```sh\n.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    Guide(server_url, serve, tmp_path).follow(page)


def test_commands_for_root_are_correct_shell_and_name_files_that_exist():
    assert len(ROOT_BLOCKS) >= 5
    for block in ROOT_BLOCKS:
        done = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for file in re.findall(r"\bdeploy/[\w./@-]+", block):
            assert (ROOT / file).exists(), file
    named = set(re.findall(r"rope-\w+@\.service", PAGE))
    assert named == {unit.name for unit in UNITS}
