"""Linters on the Dockerfile. .hadolint.yaml has the accepted findings; checkov has no finding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests.render import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def lint(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a linter of this environment, or of the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which(name, path=path)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_hadolint_has_no_other_finding():
    done = lint("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_a_fault(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text(DOCKERFILE.read_text() + 'RUN cd /tmp && echo "$(ls *.txt)" | tee x\n')
    assert lint("hadolint", str(file)).returncode == 1


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """The findings of checkov in the Dockerfile, and in one that runs as root."""
    file = tmp_path_factory.mktemp("root") / "Dockerfile"
    file.write_text(DOCKERFILE.read_text().replace("USER 10001:0\n", ""))
    # --skip-download: no guidelines from another host
    options = ("--framework", "dockerfile", "--output", "json", "--skip-download")
    done = lint("checkov", "-f", str(DOCKERFILE), "-f", str(file), *options)
    found: dict[str, set[str]] = {str(DOCKERFILE): set(), str(file): set()}
    for failed in json.loads(done.stdout)["results"]["failed_checks"]:
        found[failed["file_abs_path"]].add(failed["check_id"])
    return [*found.values()]


def test_checkov_has_no_finding(findings):
    assert findings[0] == set()


def test_checkov_finds_a_fault(findings):
    assert findings[1] == {"CKV_DOCKER_3"}
