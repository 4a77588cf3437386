"""Write the locks in deploy/requirements, from which the image is installed: `make lock`.

Each lock has the version of each package and the hashes of its files, for all platforms and for
Python 3.11 and newer. Versions follow constraints.txt; a package that it does not name keeps its
version, unless the option --upgrade is given. Needs the program uv, and reads metadata only.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "deploy/requirements"
TORCH = "torch==2.13.0"
CYCLONEDX = "cyclonedx-bom==7.5.0"


def main() -> None:
    """Write all locks; arguments are options of `uv pip compile`."""
    for name, requirements in needed().items():
        _lock(name, requirements, sys.argv[1:])


def needed() -> dict[str, list[str]]:
    """Return the direct requirements of each lock.

    Torch is first: the service shares packages with it, in the versions of its lock.
    """
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    service = project["dependencies"] + project["optional-dependencies"]["grpc"]
    return {
        "torch": [TORCH],
        "service": [line for line in service if not line.startswith("torch")],
        "wheel": pyproject["build-system"]["requires"],
        "sbom": [CYCLONEDX],
    }


def _lock(name: str, requirements: list[str], options: list[str]) -> None:
    constraints = ["--constraint", "constraints.txt"]
    if name != "torch":
        constraints += ["--constraint", f"{FOLDER}/torch.txt"]
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--custom-compile-command", "make lock"]
    command += ["--quiet", "--output-file", f"{FOLDER}/{name}.txt", *constraints, *options]
    subprocess.run(command, input="\n".join(requirements), cwd=ROOT, text=True, check=True)


if __name__ == "__main__":
    main()
