"""Install each distribution with pip in an environment of its own: `make install-test`.

Prints how many packages and megabytes each brings, and makes one call of each. Needs pip's index.
`TORCH` has pip's arguments for torch.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.deploy.installations import (
    CLIENT_CALL,
    CORE_CALL,
    PROJECTS,
    UNNEEDED,
    Environment,
    copy_sources,
    is_rotated,
    rotate_over_http,
)

TORCH = shlex.split(os.environ.get("TORCH", "torch==2.13.0"))


def main() -> None:
    """Install, measure and call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        environments = {each: _install(folder, each) for each in PROJECTS}
        service = environments["rope-service"]
        log = folder / "service.log"
        responses = {"rope-core": environments["rope-core"].run(CORE_CALL)}
        with service.serve(log) as url:
            responses["rope-service"] = rotate_over_http(url)
            responses["rope-client"] = environments["rope-client"].run(CLIENT_CALL, url)
        _check("gRPC is off" in log.read_text(), "the log says that gRPC is off")
        for each, response in responses.items():
            _print(f"{each}: {response}")
            _check(is_rotated(response), f"{each} rotates")
        start = time.monotonic()
        _pip(service, "install", "rope-service[grpc]")
        _report("rope-service[grpc]", service, start)
        with service.serve(log):
            _check("gRPC listens" in log.read_text(), "the log says that gRPC listens")
    _print("install test passed")


def _install(folder: Path, name: str) -> Environment:
    start = time.monotonic()
    environment = Environment(folder / "environments" / name, with_pip=True)
    if name != "rope-client":
        _pip(environment, "install", *TORCH)
    _pip(environment, "install", str(folder / PROJECTS[name]))
    _report(name, environment, start)
    found = environment.importable(UNNEEDED[name])
    _check(not found, f"{name} brings no {found}")
    return environment


def _report(name: str, environment: Environment, start: float) -> None:
    seconds = time.monotonic() - start
    packages = json.loads(_pip(environment, "list", "--format", "json", "--exclude", "pip"))
    files = (file for file in environment.site_packages.rglob("*") if file.is_file())
    num_bytes = sum(file.stat().st_size for file in files)
    _print(f"{name}: {len(packages)} packages, {num_bytes / 1e6:.0f} MB, {seconds:.0f} s")


def _pip(environment: Environment, *arguments: str) -> str:
    command = [environment.bin / "python", "-m", "pip", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _check(is_met: bool, condition: str) -> None:
    if not is_met:
        raise SystemExit(f"install test FAILED: {condition}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
