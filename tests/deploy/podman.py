"""Podman with a storage of its own, and the image of a Docker engine in it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# crun does not run where cgroups of both versions are mounted, and the default limits need a
# capability that root in a container may not have
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


class Podman:
    """Runs Podman with all its images and containers in one folder."""

    def __init__(self, folder: Path) -> None:
        """Use this folder, which may have the image of an earlier run."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "containers.conf"
        configuration.write_text(CONFIGURATION)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        self.command = ["podman", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self.command += ["--storage-driver", "overlay"]

    def run(self, *arguments: str, timeout_s: float = 120) -> str:
        """Return the standard output of a command that must succeed."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if done.returncode != 0:
            raise SystemExit(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def load(self, docker: str, image: str) -> None:
        """Copy an image of a Docker engine, unless it is there."""
        identity = subprocess.run(
            [docker, "image", "inspect", "--format", "{{.Id}}", image],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        if identity.removeprefix("sha256:") in self.run("images", "--no-trunc", "--quiet"):
            return
        with subprocess.Popen([docker, "save", image], stdout=subprocess.PIPE) as save:
            subprocess.run(
                [*self.command, "load", "--quiet"],
                env=self.environment,
                stdin=save.stdout,
                check=True,
                timeout=900,
            )

    @contextmanager
    def playing(self, manifest: Path, pod: str) -> Iterator[str]:
        """Run the pod of a file; yield the name of its container."""
        try:
            self.run("kube", "play", str(manifest))
            yield f"{pod}-rope-service"
        finally:
            self.run("pod", "rm", "--force", "--ignore", "--time", "0", pod)

    def state(self, container: str) -> dict[str, Any]:
        """Return the state of a container, as `podman inspect` prints it."""
        return json.loads(self.run("inspect", container))[0]

    def remove(self) -> None:
        """Remove all images and files."""
        self.run("rmi", "--all", "--force")
        subprocess.run(
            ["umount", self.folder / "root" / "overlay"], check=False, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(self.folder)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory that any user may write to."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},mode=1777,noexec,nosuid,nodev"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rope-pod-tmp", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
