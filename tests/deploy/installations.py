"""The three distributions, each in an environment of its own, and one call of each."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen
from venv import EnvBuilder

from tests.free_ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

PROJECTS = {"rope-core": "rope_core", "rope-service": ".", "rope-client": "clients/python"}
"""Folders that the distributions are built from."""

SOURCES = ("rope_core", "service", "clients/python")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt")

UNNEEDED = {
    "rope-core": ("fastapi", "starlette", "pydantic", "uvicorn", "httpx", "grpc", "service"),
    "rope-client": ("torch", "fastapi", "pydantic", "grpc", "rope_core", "service"),
    "rope-service": ("grpc", "grpc_health", "google.protobuf", "rope_client", "pytest"),
}
"""Packages that each must not bring."""

CORE_CALL = """
import json, torch, rope_core
from rope_core import compiled
x = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]).view(1, 2, 1, 4)
call = rope_core.Rotate(q=x, k=None, rope=rope_core.RopeConfig(head_dim=4, rotary_dim=4))
rotated = rope_core.rotate(call).q.flatten().tolist()
print(json.dumps({"rotated": rotated, "compiled": compiled.extension() is not None}))
"""

CLIENT_CALL = """
import json, sys, numpy, rope_client
x = numpy.float32([[1, 0, 0, 0], [1, 0, 0, 0]]).reshape(1, 2, 1, 4)
with rope_client.Client(sys.argv[1]) as client:
    print(json.dumps({"rotated": client.rotate(q=x, positions=[0, 1]).q.ravel().tolist()}))
"""

FIND = """
import json, sys
from importlib.util import find_spec
def is_there(name):
    parent = name.rpartition(".")[0]
    return (not parent or is_there(parent)) and find_spec(name) is not None
print(json.dumps([name for name in sys.argv[1:] if is_there(name)]))
"""


def copy_sources(folder: Path) -> None:
    """Copy what the distributions are built from, without what earlier builds have left."""
    built = shutil.ignore_patterns("build", "*.egg-info", "*.so", "__pycache__")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=built)
    for name in FILES:
        shutil.copy(ROOT / name, folder)


class Environment:
    """A virtual environment in a new folder."""

    def __init__(self, folder: Path, *, with_pip: bool = False) -> None:
        EnvBuilder(with_pip=with_pip).create(folder)
        self.bin = folder / "bin"
        (self.site_packages,) = folder.glob("lib/python*/site-packages")

    def run(self, script: str, *arguments: str) -> object:
        """Return the JSON that a script prints."""
        command = [self.bin / "python", "-I", "-c", script, *arguments]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    def importable(self, names: tuple[str, ...]) -> object:
        """Return those of the packages that can be imported."""
        return self.run(FIND, *names)

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run `rope-service`; return its exit code and what it has written to stderr."""
        done = subprocess.run(
            [self.bin / "rope-service", *arguments],
            env=service_variables(),
            cwd="/",
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    @contextmanager
    def serve(self, log: Path) -> Iterator[str]:
        """Run `rope-service serve`; yield its address when it is ready."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [self.bin / "rope-service", "serve", "--http-port", str(port)],
                env=service_variables(),
                cwd="/",
                stdout=file,
                stderr=file,
            )

        def is_ready_or_ended() -> bool:
            try:
                return process.poll() is not None or _read(f"{url}/readyz") is not None
            except (URLError, ConnectionError):
                return False

        try:
            wait_until(is_ready_or_ended, 120, interval_s=0.1)
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.kill()
            process.wait()


def service_variables() -> dict[str, str]:
    """Return the environment of a service with default settings."""
    own = {n: v for n, v in os.environ.items() if not n.startswith(("ROPE_", "PYTHON", "TRITON"))}
    own.pop("GLIBC_TUNABLES", None)
    return own | {"ROPE_DEVICE": "cpu", "ROPE_PREFAULT_BYTES": "0"}


def rotate_over_http(url: str) -> dict[str, object]:
    """Return the call of the README."""
    body = {"q": [[[1, 0, 0, 0]], [[1, 0, 0, 0]]], "positions": [0, 1]}
    request = Request(f"{url}/v1/rotate", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    return {"rotated": json.loads(_read(request))["q"]["data"]}


def is_rotated(response: object) -> bool:
    """Tell whether the second of two tokens has rotated by one radian."""
    assert isinstance(response, dict)
    expected = (1, 0, 0, 0, math.cos(1), 0, math.sin(1), 0)
    pairs = zip(response["rotated"], expected, strict=True)
    return all(math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)


def _read(request: str | Request) -> bytes:
    with urlopen(request, timeout=30) as response:
        return response.read()
