"""`make serve` says at once which Python it needs."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

OLD_PYTHON = f"""#!/bin/sh
exec {sys.executable} -c 'import sys
sys.version_info, sys.version = (3, 9, 2), "3.9.2 (main)"
exec(sys.argv[1])' "$2"
"""


@pytest.fixture
def make_serve(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def run(python):
        venv = tmp_path / "venv"
        command = ["make", "serve", f"PYTHON={python}", f"VENV={venv}"]
        # not those of a `make test` around this test
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAKE", "MFLAGS"))
        }
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert not venv.exists()
        assert done.stdout == ""
        return done.stderr

    return run


def test_an_old_python_is_refused_before_anything_is_installed(make_serve, tmp_path):
    python = tmp_path / "python3"
    python.write_text(OLD_PYTHON)
    python.chmod(0o755)
    assert make_serve(python).startswith(
        f"Python 3.11 or newer is needed, but {python} is Python 3.9.2. "
        "Choose another: make serve PYTHON=python3.12\n"
    )


def test_a_missing_python_is_refused(make_serve):
    assert make_serve("python3.99").startswith(
        "Python 3.11 or newer is needed, but python3.99 is not installed. "
        "Choose another: make serve PYTHON=python3.12\n"
    )
