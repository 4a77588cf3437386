"""The page about one machine under a real systemd: `make box-test`.

A container without a network has systemd as its first process, HAProxy, and the service of the
image rope-service:dev in /opt/rope. The blocks for root of docs/deploy/single-machine.md run in it
in their order, except that pip installs nothing: an environment is a link to that of the image. The
upgrade and the rollback of the page run under load. Needs root, a Docker engine and the image;
without them it prints SKIPPED. What the container cannot show: limits of memory and of devices.
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
from tests.deploy.rolling.load import Load
from tests.guide import blocks
from tests.waiting import wait_until

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = "rope-systemd:dev"
NAME = "rope-box"
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
    """Install, start, look, upgrade, roll back, and fail in three ways."""
    if sys.argv[1:] == ["load"]:
        asyncio.run(load())
        return
    missing = shutil.which(DOCKER) is None or shutil.which("nsenter") is None or os.geteuid() != 0
    if missing or _run(DOCKER, "image", "inspect", "rope-service:dev").returncode:
        _print("box test SKIPPED: it needs root, nsenter, docker and the image rope-service:dev")
        return
    must(DOCKER, "build", "--network", "host", "--tag", IMAGE, "-", stdin=DOCKERFILE)
    with machine():
        follow()
    _print("box test passed")


def follow() -> None:
    """Run the page."""
    steps = [block for kind, block in blocks(PAGE) if kind == "sh"]
    inside(by_first(steps, "useradd"))
    runs = [block for block in steps if block.startswith("systemd-run")]
    doctor, configuration = runs
    assert "rotation" in inside(doctor)
    inside(by_first(steps, "systemctl enable"))
    inside(by_first(steps, "sed 's/^global"))
    wait_until(lambda: inside(f"curl -sf {URL}/readyz || true").startswith('{"status"'), 20)
    rotated = next(
        block for kind, block in blocks(PAGE) if kind == "bash" and "/v1/rotate" in block
    )
    assert '"data":[1.0,0.0]' in inside(rotated)
    assert '"path":"/v1/rotate"' in inside(by_first(steps, "journalctl"))
    workers = inside("ps -o user= -C haproxy").split()
    assert "haproxy" in workers, workers
    _print("installed; HAProxy answers, and does not work as root")
    upgrade = by_first(steps, "python3 -m venv --clear")
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
    _print("killed: started again")
    inside("echo ROPE_NO_SUCH=1 >> /etc/rope/1.env")
    _run(DOCKER, "exec", NAME, "systemctl", "restart", "rope-service@1")
    wait_until(lambda: states()[0] == "failed", 30)
    assert inside("systemctl show -P NRestarts rope-service@1").strip() in ("0", "1")
    assert "ROPE_NO_SUCH" in inside("journalctl -u rope-service@1 -o cat -n 8")
    inside("sed -i /ROPE_NO_SUCH/d /etc/rope/1.env")
    inside("systemctl reset-failed rope-service@1 && systemctl start rope-service@1")
    assert states()[0] == "active"
    _print("wrong setting: not repeated, its name is in the journal; started after the repair")


async def load() -> None:
    """Send requests until the standard input ends; print what has happened."""
    async with Load(URL, "127.0.0.1:8001", RATE) as sent:
        await sent.answers(int(RATE))
        _print("sending")
        await asyncio.to_thread(sys.stdin.read)
        await sent.answers(int(RATE))
    _print(sent)
    raise SystemExit(not sent.outcomes.keys() <= {"rotate right", "infer right"})


@contextmanager
def sending() -> Iterator[None]:
    """Send requests from this environment in the network of the container."""
    pid = must(DOCKER, "inspect", "--format", "{{.State.Pid}}", NAME).strip()
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-m", "tests.deploy.box"]
    process = subprocess.Popen(
        [*command, "load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "sending\n"
    try:
        yield
    finally:
        out, _ = process.communicate("")
    _print(f"upgraded and rolled back under load:\n{out.rstrip()}")
    if process.returncode:
        raise SystemExit("box test FAILED: requests failed")


@contextmanager
def machine() -> Iterator[None]:
    """Start systemd in a container that has only its own loopback interface."""
    _run(DOCKER, "rm", "--force", NAME)
    hierarchy = "/sys/fs/cgroup/systemd" if os.path.exists("/sys/fs/cgroup/systemd") else ""
    hierarchy = hierarchy or "/sys/fs/cgroup"
    must(
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
        _run(DOCKER, "rm", "--force", NAME)


def inside(block: str) -> str:
    """Run a block of the page in a checkout, with links in place of what pip would install."""
    block = re.sub(
        r"^python3 -m venv (?:--clear )?(\S+)$",
        r"mkdir -p \1/bin && ln -sf /opt/rope/bin/rope-service \1/bin/",
        block,
        flags=re.MULTILINE,
    )
    block = re.sub(r"^\S+/bin/pip install .*\n", "", block, flags=re.MULTILINE)
    return must(
        DOCKER, "exec", "--workdir", "/checkout", NAME, "bash", "-euo", "pipefail", "-c", block
    )


def states() -> tuple[str, ...]:
    """Return the states of both instances."""
    show = "systemctl show -P ActiveState rope-service@1 rope-service@2"
    return tuple(inside(show).split())


def main_pid() -> str:
    """Return the process of instance 1."""
    return inside("systemctl show -P MainPID rope-service@1").strip()


def by_first(steps: list[str], start: str) -> str:
    """Return the first block that begins so."""
    return next(block for block in steps if block.startswith(start))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def must(*command: str, stdin: str = "") -> str:
    """Run a command that has to succeed; return what it prints."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        said = done.stdout + done.stderr
        raise SystemExit(f"box test FAILED: {' '.join(command)}\n{said}")
    return done.stdout


def _print(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
