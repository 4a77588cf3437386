"""Build the compiled rotation where there is a C compiler; torch rotates elsewhere."""

import tomllib
from pathlib import Path

from setuptools import Extension, setup

# rope_core/pyproject.toml describes the extension for both distributions
CORE = tomllib.loads(Path("rope_core/pyproject.toml").read_text())
(described,) = CORE["tool"]["setuptools"]["ext-modules"]
arguments = {key.replace("-", "_"): value for key, value in described.items()}
arguments["sources"] = [f"rope_core/{source}" for source in described["sources"]]

setup(
    ext_modules=[Extension(**arguments)],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
