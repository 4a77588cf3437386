"""Install each distribution with pip in an environment of its own: `make install-test`.

Prints how many packages and megabytes each brings, and makes one call of each. Needs pip's index.
`TORCH` has pip's arguments for torch.
"""

import json
import os
import shlex
import subprocess
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
from tests.deploy.report import check, print_line

TORCH = shlex.split(os.environ.get("TORCH", "torch==2.13.0"))


def main() -> None:
    """Install, measure and call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        pip = Pip(Environment(folder / "pip", with_pip=True))
        environments = {each: _install(pip, folder, each) for each in PROJECTS}
        service = environments["rope-service"]
        log = folder / "service.log"
        responses = {"rope-core": environments["rope-core"].run(CORE_CALL)}
        with service.serve(log) as url:
            responses["rope-service"] = rotate_over_http(url)
            responses["rope-client"] = environments["rope-client"].run(CLIENT_CALL, url)
        check("gRPC is off" in log.read_text(), "the log says that gRPC is off")
        for each, response in responses.items():
            print_line(f"{each}: {response}")
            check(is_rotated(response), f"{each} rotates")
        start = time.monotonic()
        pip.run(service, "install", "rope-service[grpc]")
        _report(pip, "rope-service[grpc]", service, start)
        with service.serve(log):
            check("gRPC listens" in log.read_text(), "the log says that gRPC listens")
    print_line("install test passed")


class Pip:
    """pip in an environment of its own, so that it is no package of the others."""

    def __init__(self, environment: Environment) -> None:
        self._command = [environment.bin / "python", "-m", "pip", "--python"]

    def run(self, environment: Environment, *arguments: str) -> str:
        """Run pip for an environment; return what it prints."""
        command = [*self._command, environment.bin / "python", *arguments]
        # pip would take the checkout in PYTHONPATH for an installed package
        variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
        return done.stdout


def _install(pip: Pip, folder: Path, name: str) -> Environment:
    start = time.monotonic()
    environment = Environment(folder / "environments" / name)
    if name != "rope-client":
        pip.run(environment, "install", *TORCH)
    pip.run(environment, "install", str(folder / PROJECTS[name]))
    _report(pip, name, environment, start)
    found = environment.importable(UNNEEDED[name])
    check(not found, f"{name} brings no {found}")
    return environment


def _report(pip: Pip, name: str, environment: Environment, start: float) -> None:
    seconds = time.monotonic() - start
    packages = json.loads(pip.run(environment, "list", "--format", "json"))
    files = (file for file in environment.site_packages.rglob("*") if file.is_file())
    num_bytes = sum(file.stat().st_size for file in files)
    print_line(f"{name}: {len(packages)} packages, {num_bytes / 1e6:.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
