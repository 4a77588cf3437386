"""Build the compiled code of the CPU where there is a C compiler; torch computes elsewhere."""

import tomllib
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

# rope_core/pyproject.toml describes the extensions for both distributions
CORE = tomllib.loads(Path("rope_core/pyproject.toml").read_text())


def extension(described: dict[str, Any]) -> Extension:
    """Return an extension as setuptools takes it, with its sources from here."""
    arguments = {key.replace("-", "_"): value for key, value in described.items()}
    arguments["sources"] = [f"rope_core/{source}" for source in described["sources"]]
    return Extension(**arguments)


setup(
    ext_modules=[*map(extension, CORE["tool"]["setuptools"]["ext-modules"])],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
