"""Build the image, run it with all restrictions, and stop it during a request: `make image-test`.

Needs a Docker engine; without one, it prints SKIPPED. `DOCKER` is the name of the client. If pip is
configured with a local folder of wheels, the build gets these wheels over loopback.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.deploy.locks import locks
from tests.deploy.packages import ABSENT, outdated, unknown_licences
from tests.deploy.report import check, print_line
from tests.deploy.traffic import attend, check_rotate, get, metric, tokens_for, wait
from tests.free_ports import free_port
from tools.image_labels import build_arguments

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = "rope-service:dev"
BUILD_ARGUMENTS = {
    # not by the lock, which has torch for CUDA; torch for CPUs does not depend on Triton
    "TORCH_SPEC": "torch==2.13.0 triton==3.7.1",
    "KERNEL_TARGETS": "90",
    "KERNEL_SHAPES": "32x8x128",
}
RESTRICTIONS = (
    *("--read-only", "--tmpfs", "/tmp:size=64m", "--user", "12345:0"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "4g", "--pids-limit", "256"),
)
UNLOCKED = {"torch", "triton", "rope-service"}
"""Packages of `TORCH_SPEC`, and the service itself."""
DRAIN_DELAY_S = 1.0
WHEELS_PORT = 18_765  # fixed, since the address is part of the key of the build cache
DRIVER_FOLDER = "/usr/local/nvidia/lib64"
"""Device plugins mount the libraries of a GPU's driver here."""
LOAD_EXTENSION = """
import shutil, torch
from triton.backends.nvidia.driver import CudaUtils
assert CudaUtils().load_binary
assert torch.__file__.startswith("/opt/torch/"), f"there is a second torch: {torch.__file__}"
assert not any(map(shutil.which, ("cc", "gcc", "clang"))), "there is a compiler"
"""
LOAD_COMPILED = """
from rope_core import compiled
assert compiled.extension() is not None, "the compiled rotation is missing"
"""
FIND_KERNELS = """
import os
from service.kernel_builds.prebuild import prebuild
new = prebuild([(32, 8, 128)], 90)
assert new == 0, f"{new} kernels are compiled again"
assert not os.path.exists("/tmp/triton"), "kernels were stored"
new = prebuild([(4, 4, 48)], 90)
assert new > 0, "a kernel that was not prebuilt is compiled"
print(f"{new} others were built in {sum(len(files) for *_, files in os.walk('/tmp'))} files")
"""
LIST_PACKAGES = """
from importlib.metadata import distributions
print(*{found.metadata["Name"].lower() for found in distributions()})
"""
SLOW_REQUEST_S = 6.0
"""Time of the request in flight at the stop: much longer than the delay of the drain."""


def main() -> None:
    """Build, run, send requests, stop."""
    reason = _engine_error()
    if reason:
        print_line(f"image test SKIPPED: {reason}")
        return
    start = time.monotonic()
    labels = build_arguments()
    _build(labels)
    num_bytes = int(_docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    print_line(f"built in {time.monotonic() - start:.0f} s: {num_bytes / 1e9:.2f} GB")
    _check_labels(labels)
    _check_packages()
    _check_kernels()
    with _container(ROPE_DRAIN_DELAY_S=str(DRAIN_DELAY_S), ROPE_MAX_CALL_S="60") as (name, port):
        _check_health(name, port)
        _check_restrictions(name)
        check_rotate(port)
        _check_stop(name, port)
    print_line("image test passed")


def _engine_error() -> str | None:
    if shutil.which(DOCKER) is None:
        return f"{DOCKER} is not installed"
    done = subprocess.run([DOCKER, "version"], capture_output=True, text=True, check=False)
    return f"{DOCKER} version failed: {done.stderr.strip()}" if done.returncode else None


def _build(labels: dict[str, str]) -> None:
    with _local_wheels() as wheels:
        arguments = BUILD_ARGUMENTS | labels | wheels
        build_args = [
            part for name in arguments for part in ("--build-arg", f"{name}={arguments[name]}")
        ]
        for target in (("--tag", IMAGE), ("--tag", f"{IMAGE}-driver", "--target", "driver")):
            subprocess.run(
                [DOCKER, "build", "--network", "host", *build_args, *target, "."],
                cwd=ROOT,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
                check=True,
                timeout=3600,
            )


@contextmanager
def _local_wheels() -> Iterator[dict[str, str]]:
    """Serve the folder of pip's `find-links`, if configured; yield the build arguments for it."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    links = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.split()
    folder = next((link for link in links if Path(link).is_dir()), None)
    if folder is None:
        yield {}
        return
    handler = partial(_QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PYTHON_VERSION": f"{sys.version_info.major}.{sys.version_info.minor}",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/",
            "PIP_TRUSTED_HOST": "127.0.0.1",
        }
        server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _container(**variables: str) -> Iterator[tuple[str, int]]:
    """Run the image with all restrictions on a free port; print its log on an error."""
    port = free_port()
    name = f"rope-image-test-{os.getpid()}"
    variables |= {"ROPE_HTTP_HOST": "127.0.0.1", "ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": "0"}
    environment = [part for key, value in variables.items() for part in ("--env", f"{key}={value}")]
    host = ("--network", "host")
    _docker("run", "--detach", "--name", name, *host, *RESTRICTIONS, *environment, IMAGE)
    try:
        yield name, port
    except BaseException:
        print_line(_docker("logs", name))
        raise
    finally:
        _docker("rm", "--force", name)


def _check_labels(arguments: dict[str, str]) -> None:
    labels = json.loads(_docker("image", "inspect", "--format", "{{json .Config.Labels}}", IMAGE))
    for argument, value in arguments.items():
        label = {"BASE_DIGEST": "base.digest"}.get(argument, argument.lower())
        actual = labels[f"org.opencontainers.image.{label}"]
        check(actual == value, f"the label {label} is {value}: {actual}")
    print_line(f"labels: {labels}")


def _check_packages() -> None:
    """Check versions and licences of what the image says it contains, and that it says all.

    All packages have the versions of the locks, also where torch is another build.
    """
    entrypoint = "run", "--rm", "--entrypoint", "python", IMAGE, "-c"
    sbom = json.loads(_docker(*entrypoint, "print(open('/opt/rope/sbom.cdx.json').read())"))
    versions = {part["name"].lower(): part["version"] for part in sbom["components"]}
    listing = _docker(*entrypoint, LIST_PACKAGES).split()
    assert versions.keys() | {"rope-service"} == {*listing}, versions.keys() ^ {*listing}
    assert not outdated(versions), outdated(versions)
    assert not ABSENT & versions.keys(), ABSENT & versions.keys()
    assert not unknown_licences(sbom["components"]), unknown_licences(sbom["components"])
    locked = locks()["torch"] | locks()["service"]
    others = {name: version for name, version in versions.items() if name not in UNLOCKED}
    differ = {n: v for n, v in others.items() if locked[canonicalize_name(n)].version != v}
    assert not differ, differ
    print_line(f"{len(versions)} packages as locked, none outdated, all with known licences")


def _check_kernels() -> None:
    """Load both extensions and find the prebuilt kernels, as on a node with a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        stage = _docker("create", f"{IMAGE}-driver").strip()
        _docker("cp", f"{stage}:/opt/stub/libcuda.so.1", folder)
        _docker("rm", stage)
        os.chmod(folder, 0o755)  # the container runs as another user
        options = *RESTRICTIONS, "--volume", f"{folder}:{DRIVER_FOLDER}:ro"
        for script in (LOAD_COMPILED, LOAD_EXTENSION, FIND_KERNELS):
            run = "run", "--rm", *options, "--entrypoint", "python", IMAGE, "-c", script
            output = _docker(*run, timeout_s=600)
    print_line(f"both extensions are loaded, prebuilt kernels are found: {output.strip()}")


def _check_health(name: str, port: int) -> None:
    start = time.monotonic()
    wait("the service is ready", lambda: get(port, "/readyz") == 200)
    ready = time.monotonic()
    wait("the container is healthy", lambda: _state(name)["Health"]["Status"] == "healthy")
    print_line(
        f"ready {ready - start:.1f} s after its start, healthy {time.monotonic() - start:.1f} s"
    )


def _check_restrictions(name: str) -> None:
    status = _docker("exec", name, "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    shown = {key: facts[key] for key in ("Uid", "Gid", "CapEff", "NoNewPrivs", "Seccomp")}
    check(facts["Uid"].split() == ["12345"] * 4, f"the process has the given uid: {shown}")
    check(int(facts["CapEff"], 16) == 0, f"the process has no capabilities: {shown}")
    check(facts["NoNewPrivs"] == "1", f"the process cannot gain privileges: {shown}")
    command = _docker("exec", name, "cat", "/proc/1/cmdline").replace("\0", " ")
    check("rope-service serve" in command, f"process 1 is the service itself: {command}")
    touch = [DOCKER, "exec", name, "touch", "/opt/rope/x"]
    done = subprocess.run(touch, capture_output=True, text=True, check=False)
    check(
        "Read-only file system" in done.stderr, f"the root file system is read-only: {done.stderr}"
    )
    print_line(f"restrictions: {shown}, root read-only")


def _check_stop(name: str, port: int) -> None:
    num_tokens = tokens_for(port, SLOW_REQUEST_S)
    with ThreadPoolExecutor(2) as threads:
        request_start = time.monotonic()
        slow = threads.submit(attend, port, num_tokens)
        wait("a request is admitted", lambda: metric(port, "rope_admitted_bytes") > 0)
        stop_start = time.monotonic()
        stop = threads.submit(_docker, "stop", "-t", "60", name)
        wait("the service drains", lambda: get(port, "/readyz") == 503)
        check(get(port, "/healthz") == 200, "a draining service is alive")
        response_s = request_start + slow.result() - stop_start
        stop.result()
    stopped_s = time.monotonic() - stop_start
    state = _state(name)
    check(
        response_s > DRAIN_DELAY_S, f"the response comes after the drain began: {response_s:.1f} s"
    )
    check(
        state["ExitCode"] != 137 and not state["OOMKilled"], f"the service exits by itself: {state}"
    )
    print_line(
        f"stop with attention over {num_tokens} tokens in flight: correct response after "
        f"{response_s:.1f} s, exit after {stopped_s:.1f} s, exit code {state['ExitCode']}"
    )


def _state(name: str) -> dict:
    return json.loads(_docker("inspect", "--format", "{{json .State}}", name))


def _docker(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        [DOCKER, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
    )
    check(done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout + done.stderr if arguments[0] == "logs" else done.stdout


if __name__ == "__main__":
    main()
