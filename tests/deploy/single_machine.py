"""docs/deploy/single-machine.md under a real systemd: `make systemd-test`.

A container without a network runs systemd, HAProxy, and the service of the image rope-service:dev
in /opt/rope. It runs the blocks for root of the page in their order, except that pip installs
nothing: a virtual environment is a link to that of the image. The upgrade and the rollback of the
page run under load. Needs root, a Docker engine and the image; without them it prints SKIPPED. The
container cannot show limits of memory and of devices.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import ROOT
from tests.deploy import engine
from tests.deploy.engine import DOCKER
from tests.deploy.report import print_line
from tests.deploy.rolling.load import Load
from tests.guide import blocks
from tests.waiting import wait_until

IMAGE = "rope-systemd:dev"
NAME = "rope-systemd-test"
DOCKERFILE = """
FROM rope-service:dev
USER 0
ENTRYPOINT []
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
    --no-install-recommends systemd systemd-sysv dbus haproxy curl procps
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
"""
PAGE = (ROOT / "docs" / "deploy" / "single-machine.md").read_text()
URL = "http://127.0.0.1:8000"
RATE = 100.0


def main() -> None:
    """Install, start, upgrade and roll back under load; then test failures."""
    if sys.argv[1:] == ["load"]:
        asyncio.run(load())
        return
    missing = shutil.which(DOCKER) is None or shutil.which("nsenter") is None or os.geteuid() != 0
    if missing or not engine.succeeds(DOCKER, "image", "inspect", engine.IMAGE):
        print_line(f"systemd test SKIPPED: it needs root, nsenter, docker and {engine.IMAGE}")
        return
    engine.run(DOCKER, "build", "--network", "host", "--tag", IMAGE, "-", stdin=DOCKERFILE)
    with machine():
        follow()
    print_line("systemd test passed")


def follow() -> None:
    """Run the page."""
    steps = [block for kind, block in blocks(PAGE) if kind == "sh"]
    inside(block_of(steps, "useradd"))
    doctor, configuration = [block for block in steps if block.startswith("systemd-run")]
    assert "rotation" in inside(doctor)
    inside(block_of(steps, "systemctl enable"))
    inside(block_of(steps, "sed 's/^global"))
    wait_until(lambda: inside(f"curl -sf {URL}/readyz || true").startswith('{"status"'), 20)
    rotated = next(
        block for kind, block in blocks(PAGE) if kind == "bash" and "/v1/rotate" in block
    )
    assert '"data":[1.0,0.0]' in inside(rotated)
    assert '"path":"/v1/rotate"' in inside(block_of(steps, "journalctl"))
    workers = inside("ps -o user= -C haproxy").split()
    assert "haproxy" in workers, workers
    print_line("installed; HAProxy answers, and does not work as root")
    upgrade = block_of(steps, "python3 -m venv --clear")
    rollback = re.sub(r"@[12]", lambda name: "@1" if name[0] == "@2" else "@2", upgrade)
    rollback = rollback.replace("8022", "8012").replace("/opt/rope/2", "/opt/rope/1")
    with sending():
        inside(upgrade)
        assert states() == ("inactive", "active"), states()
        assert "http_port" in inside(configuration)
        inside(rollback)
        assert states() == ("active", "inactive"), states()
    failures()


def failures() -> None:
    """Kill the process; let it end with a wrong setting; repair it."""
    before = main_pid()
    inside(f"kill -9 {before}")
    wait_until(lambda: main_pid() not in ("0", before), 30)
    wait_until(lambda: states()[0] == "active", 60)
    print_line("killed: started again")
    inside("echo ROPE_NO_SUCH=1 >> /etc/rope/1.env")
    engine.succeeds(DOCKER, "exec", NAME, "systemctl", "restart", "rope-service@1")
    wait_until(lambda: states()[0] == "failed", 30)
    assert inside("systemctl show -P NRestarts rope-service@1").strip() in ("0", "1")
    assert "ROPE_NO_SUCH" in inside("journalctl -u rope-service@1 -o cat -n 8")
    inside("sed -i /ROPE_NO_SUCH/d /etc/rope/1.env")
    inside("systemctl reset-failed rope-service@1 && systemctl start rope-service@1")
    assert states()[0] == "active"
    print_line("wrong setting: not repeated, its name is in the journal; started after the repair")


async def load() -> None:
    """Send requests until the standard input ends; print what has happened."""
    async with Load(URL, "127.0.0.1:8001", RATE) as sent:
        await sent.answers(int(RATE))
        print_line("sending")
        await asyncio.to_thread(sys.stdin.read)
        await sent.answers(int(RATE))
    print_line(str(sent))
    raise SystemExit(not sent.outcomes.keys() <= {"rotate right", "infer right"})


@contextmanager
def sending() -> Iterator[None]:
    """Send requests from this environment in the network of the container."""
    pid = engine.run(DOCKER, "inspect", "--format", "{{.State.Pid}}", NAME).strip()
    command = [
        "nsenter",
        f"--net=/proc/{pid}/ns/net",
        sys.executable,
        "-m",
        "tests.deploy.single_machine",
    ]
    process = subprocess.Popen(
        [*command, "load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "sending\n"
    try:
        yield
    finally:
        out, _ = process.communicate("")
    print_line(f"upgraded and rolled back under load:\n{out.rstrip()}")
    if process.returncode:
        raise SystemExit("test FAILED: requests failed")


@contextmanager
def machine() -> Iterator[None]:
    """Start systemd in a container that has only its own loopback interface."""
    engine.succeeds(DOCKER, "rm", "--force", NAME)
    hierarchy = "/sys/fs/cgroup/systemd" if os.path.exists("/sys/fs/cgroup/systemd") else ""
    hierarchy = hierarchy or "/sys/fs/cgroup"
    engine.run(
        *(DOCKER, "run", "--detach", "--name", NAME, "--network", "none"),
        *("--cgroupns", "private", "--volume", f"{hierarchy}:{hierarchy}:rw"),
        *("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"),
        *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec,mode=1777"),
        *("--volume", f"{ROOT}:/checkout:ro", "--env", "container=docker", "--memory", "4g"),
        IMAGE,
    )
    try:
        state = "systemctl is-system-running || true"
        wait_until(lambda: inside(state).strip() in ("running", "degraded"), 60)
        yield
    finally:
        engine.succeeds(DOCKER, "rm", "--force", NAME)


def inside(block: str) -> str:
    """Run a block of the page in the checkout. An environment is a link; pip installs nothing."""
    block = re.sub(
        r"^python3 -m venv (?:--clear )?(\S+)$",
        r"mkdir -p \1/bin && ln -sf /opt/rope/bin/rope-service \1/bin/",
        block,
        flags=re.MULTILINE,
    )
    block = re.sub(r"^\S+/bin/pip install .*\n", "", block, flags=re.MULTILINE)
    return engine.run(
        DOCKER, "exec", "--workdir", "/checkout", NAME, "bash", "-euo", "pipefail", "-c", block
    )


def states() -> tuple[str, ...]:
    """Return the states of both instances."""
    show = "systemctl show -P ActiveState rope-service@1 rope-service@2"
    return tuple(inside(show).split())


def main_pid() -> str:
    """Return the process of instance 1."""
    return inside("systemctl show -P MainPID rope-service@1").strip()


def block_of(steps: list[str], start: str) -> str:
    """Return the first block of the page that begins with a text."""
    return next(block for block in steps if block.startswith(start))


if __name__ == "__main__":
    main()
