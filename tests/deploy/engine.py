"""Commands of a Docker engine, for the tests that run containers by hand."""

import os
import subprocess

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = "rope-service:dev"


def succeeds(*command: str) -> bool:
    """Run a command; return whether its exit code is 0."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(*command: str, stdin: str = "", **variables: str) -> str:
    """Run a command that must succeed; return what it prints.

    Args:
        command: the program and its arguments.
        stdin: text for its standard input.
        variables: more environment variables.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DOCKER_BUILDKIT": "1", **variables},
    )
    if done.returncode:
        raise SystemExit(f"test FAILED: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
