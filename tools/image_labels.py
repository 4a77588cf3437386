"""Print the build arguments from which the image gets its labels, for `docker build`.

The version is that of the package. The revision and its time are those of the commit in Git, with
`-dirty` if files differ from it, so two builds of a commit get the same labels. For a release set
two environment variables: `SOURCE`, the address of the repository, and `BASE_DIGEST`.
"""

import os
import subprocess
import sys
from pathlib import Path

from service import __version__

ROOT = Path(__file__).parents[1]


def build_arguments() -> dict[str, str]:
    """Return the value of each build argument that is a label."""
    arguments = {
        "VERSION": __version__,
        "REVISION": _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "CREATED": _git("log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"),
    }
    arguments |= {name: os.environ.get(name, "") for name in ("SOURCE", "BASE_DIGEST")}
    return {name: value for name, value in arguments.items() if value}


def _git(*arguments: str) -> str:
    """Return what Git prints, or nothing outside of a repository."""
    command = ["git", *arguments]
    environment = {**os.environ, "TZ": "UTC"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    words = (f"--build-arg {name}={value}" for name, value in build_arguments().items())
    sys.stdout.write(" ".join(words) + "\n")
