"""Build the image, run it locked down, and stop it under a request: what `make image-test` does.

Needs a Docker engine and says so where none answers. `DOCKER` names the client. Wheels that pip is
configured to find in a local folder are lent to the build, over loopback.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import safetensors.numpy

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = "rope-service:dev"
BUILD_ARGUMENTS = {
    "TORCH_SPEC": "torch==2.13.0 triton==3.7.1",  # a torch for CPUs brings no Triton
    "KERNEL_TARGETS": "90",
    "KERNEL_SHAPES": "32x8x128",
}
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:size=64m", "--user", "12345:0"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "4g", "--pids-limit", "256"),
)
DRAIN_DELAY_S = 1.0
WHEELS_PORT = 18_765  # always the same: the address is part of what the build's cache goes by
DRIVER_FOLDER = "/usr/local/nvidia/lib64"
"""Where device plugins mount the libraries of a GPU's driver."""
LOAD_EXTENSION = """
import shutil, torch
from triton.backends.nvidia.driver import CudaUtils
assert CudaUtils().load_binary
assert torch.__file__.startswith("/opt/torch/"), f"there is a second torch: {torch.__file__}"
assert not any(map(shutil.which, ("cc", "gcc", "clang"))), "there is a compiler"
"""
FIND_KERNELS = """
import os
from service.kernel_builds.prebuild import prebuild
new = prebuild([(32, 8, 128)], 90)
assert new == 0, f"{new} kernels are compiled again"
assert not os.path.exists("/tmp/triton"), "kernels were stored"
new = prebuild([(4, 4, 48)], 90)
assert new > 0, "what was not prebuilt is compiled"
print(f"{new} others were built in {sum(len(files) for *_, files in os.walk('/tmp'))} files")
"""
SLOW_S = 6.0
"""How long the request takes that is in flight at the stop: well over the drain's delay."""


def main() -> None:
    """Build, run, ask, stop."""
    why_not = _why_no_engine()
    if why_not:
        _say(f"image test SKIPPED: {why_not}")
        return
    began = time.monotonic()
    _build()
    num_bytes = int(_docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    _say(f"built in {time.monotonic() - began:.0f} s: {num_bytes / 1e9:.2f} GB")
    _check_kernels()
    with _container(ROPE_DRAIN_DELAY_S=str(DRAIN_DELAY_S)) as (name, port):
        _check_health(name, port)
        _check_lock(name)
        _check_rotate(port)
        _check_stop(name, port)
    _say("image test passed")


def _why_no_engine() -> str | None:
    if shutil.which(DOCKER) is None:
        return f"there is no {DOCKER} here"
    asked = subprocess.run([DOCKER, "version"], capture_output=True, text=True, check=False)
    return f"no engine answers {DOCKER}: {asked.stderr.strip()}" if asked.returncode else None


def _build() -> None:
    with _local_wheels() as wheels:
        arguments = BUILD_ARGUMENTS | wheels
        given = [
            part for name in arguments for part in ("--build-arg", f"{name}={arguments[name]}")
        ]
        for more in (("--tag", IMAGE), ("--tag", f"{IMAGE}-driver", "--target", "driver")):
            subprocess.run(
                [DOCKER, "build", "--network", "host", *given, *more, "."],
                cwd=ROOT,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
                check=True,
                timeout=3600,
            )


@contextmanager
def _local_wheels() -> Iterator[dict[str, str]]:
    """Serve the folder of pip's `find-links`, if it has one, and yield build arguments for it."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    links = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.split()
    folder = next((link for link in links if Path(link).is_dir()), None)
    if folder is None:
        yield {}
        return
    handler = partial(_Silent, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PYTHON_VERSION": f"{sys.version_info.major}.{sys.version_info.minor}",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/",
            "PIP_TRUSTED_HOST": "127.0.0.1",
        }
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _container(**variables: str) -> Iterator[tuple[str, int]]:
    """Run the image locked down, on a free port of this machine; show its log if that fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"rope-image-test-{os.getpid()}"
    variables |= {"ROPE_HTTP_HOST": "127.0.0.1", "ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": "0"}
    given = [part for key, value in variables.items() for part in ("--env", f"{key}={value}")]
    host = ("--network", "host")
    _docker("run", "--detach", "--name", name, *host, *LOCKED_DOWN, *given, IMAGE)
    try:
        yield name, port
    except BaseException:
        _say(_docker("logs", name))
        raise
    finally:
        _docker("rm", "--force", name)


def _check_kernels() -> None:
    """Load Triton's extension, and find the prebuilt kernels, as on a node with a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        stage = _docker("create", f"{IMAGE}-driver").strip()
        _docker("cp", f"{stage}:/opt/stub/libcuda.so.1", folder)
        _docker("rm", stage)
        os.chmod(folder, 0o755)  # the container runs as another user
        locked_down = *LOCKED_DOWN, "--volume", f"{folder}:{DRIVER_FOLDER}:ro"
        for script in (LOAD_EXTENSION, FIND_KERNELS):
            run = "run", "--rm", *locked_down, "--entrypoint", "python", IMAGE, "-c", script
            told = _docker(*run, timeout_s=600)
    _say(f"Triton's extension is loaded, prebuilt kernels are found: {told.strip()}")


def _check_health(name: str, port: int) -> None:
    began = time.monotonic()
    _wait("ready", lambda: _get(port, "/readyz") == 200)
    ready = time.monotonic()
    _wait("healthy", lambda: _state(name)["Health"]["Status"] == "healthy")
    _say(f"ready {ready - began:.1f} s after its start, healthy {time.monotonic() - began:.1f} s")


def _check_lock(name: str) -> None:
    status = _docker("exec", name, "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    seen = {key: facts[key] for key in ("Uid", "Gid", "CapEff", "NoNewPrivs", "Seccomp")}
    _check(facts["Uid"].split() == ["12345"] * 4, f"it runs as the uid given: {seen}")
    _check(int(facts["CapEff"], 16) == 0, f"it has no capability: {seen}")
    _check(facts["NoNewPrivs"] == "1", f"it cannot gain any: {seen}")
    command = _docker("exec", name, "cat", "/proc/1/cmdline").replace("\0", " ")
    _check("rope-service serve" in command, f"it has not started itself again: {command}")
    touch = [DOCKER, "exec", name, "touch", "/opt/rope/x"]
    wrote = subprocess.run(touch, capture_output=True, text=True, check=False)
    _check("Read-only file system" in wrote.stderr, f"its root is read-only: {wrote.stderr}")
    _say(f"locked down: {seen}, root read-only")


def _check_rotate(port: int) -> None:
    body = {"q": [[[[1, 2, 3, 4]]]], "positions": [7], "rope": {"theta": 10_000}}
    status, answer = _post(port, "/v1/rotate", "application/json", json.dumps(body).encode())
    _check(status == 200, f"rotate is answered: {status} {answer[:500]!r}")
    got = json.loads(answer)["q"]["data"]
    turns = [complex(math.cos(a), math.sin(a)) for a in (7.0, 0.07)]
    first, second = (1 + 3j) * turns[0], (2 + 4j) * turns[1]
    wanted = [first.real, second.real, first.imag, second.imag]
    _check(bool(np.allclose(got, wanted, rtol=1e-6)), f"rotate is right: {got}, not {wanted}")
    _say(f"rotate: {got}")


def _check_stop(name: str, port: int) -> None:
    num_tokens = 2048
    took_s = _attend(port, num_tokens)
    took_s = _attend(port, num_tokens)  # the first one was slow for other reasons, too
    num_tokens = int(num_tokens * math.sqrt(SLOW_S / took_s))
    with ThreadPoolExecutor(2) as threads:
        asked = time.monotonic()
        slow = threads.submit(_attend, port, num_tokens)
        _wait("taken", lambda: _metric(port, "rope_admitted_bytes") > 0)
        begun = time.monotonic()
        stop = threads.submit(_docker, "stop", "--time", "60", name)
        _wait("draining", lambda: _get(port, "/readyz") == 503)
        _check(_get(port, "/healthz") == 200, "a draining service is alive")
        answered_s = asked + slow.result() - begun
        stop.result()
    stopped_s = time.monotonic() - begun
    state = _state(name)
    _check(answered_s > DRAIN_DELAY_S, f"the answer came after the door closed: {answered_s:.1f} s")
    _check(state["ExitCode"] != 137 and not state["OOMKilled"], f"it ended by itself: {state}")
    _say(
        f"stop, with attention over {num_tokens} tokens in flight: its right answer came after "
        f"{answered_s:.1f} s, the end after {stopped_s:.1f} s, exit code {state['ExitCode']}"
    )


def _attend(port: int, num_tokens: int) -> float:
    """Ask for the mean of 0, 1, ... up to each token, as attention; return the seconds it took."""
    q = np.zeros((1, num_tokens, 8, 64), np.float32)  # zeros look at every key alike
    v = np.broadcast_to(np.arange(num_tokens, dtype=np.float32)[:, None, None], q.shape[1:])[None]
    tensors = {"q": q, "k": q[:, :, :1], "v": v[:, :, :1]}
    body = safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in tensors.items()})
    began = time.monotonic()
    status, answer = _post(port, "/v1/attention", "application/x-safetensors", body)
    took_s = time.monotonic() - began
    _check(status == 200, f"attention is answered: {status} {answer[:500]!r}")
    out = safetensors.numpy.load(answer)["out"]
    _check(bool(np.allclose(out, v / 2, rtol=1e-4)), "attention is right")
    return took_s


def _post(port: int, path: str, content_type: str, body: bytes) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.read()


def _get(port: int, path: str) -> int | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None


def _metric(port: int, name: str) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _state(name: str) -> dict:
    return json.loads(_docker("inspect", "--format", "{{json .State}}", name))


def _docker(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        [DOCKER, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
    )
    _check(done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout + done.stderr if arguments[0] == "logs" else done.stdout


def _wait(what: str, so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not so():
        _check(time.monotonic() < deadline, f"it becomes {what}")
        time.sleep(0.05)


def _check(so: bool, promise: str) -> None:
    if not so:
        raise SystemExit(f"image test FAILED: {promise}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
