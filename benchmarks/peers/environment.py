"""A virtual environment for each peer in `.venv-peers`, on top of the packages of this one."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(".venv-peers")
REQUIREMENTS = Path(__file__).with_name("requirements")


def interpreter(name: str | None) -> str:
    """Return the interpreter with `requirements/NAME.txt`, which are installed at first use.

    Packages of this interpreter, such as torch, are not installed again. Without a name, return
    this interpreter.

    Raises:
        SystemExit: a package cannot be installed.
    """
    if name is None:
        return sys.executable
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = FOLDER.absolute() / name
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    if installed.exists() and installed.read_text() == requirements.read_text():
        return str(python)
    print(f"installing {name} in {folder}", file=sys.stderr)
    venv.create(folder, clear=True, symlinks=True, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--no-deps", "-r", str(requirements)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"cannot install {name}: {run.stderr[-500:]}")
    installed.write_text(requirements.read_text())
    return str(python)
