"""Versions of installed packages, and versions that pyproject.toml allows."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from service import __version__
from tests.conftest import ROOT
from tests.deploy.packages import FLOORS, outdated, unknown_licences

SERVICE = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = tomllib.loads((ROOT / "rope_core" / "pyproject.toml").read_text())
CLIENT = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())
NEEDED = SERVICE["project"]["dependencies"]
EXTRAS = SERVICE["project"]["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {Requirement(text).name for text in requirements}


def installed() -> dict[str, str]:
    versions = {}
    for name in FLOORS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def test_no_installed_package_is_older_than_its_floor():
    assert outdated(installed()) == {}
    assert installed().keys() >= FLOORS.keys() - {"h11"}


@pytest.mark.parametrize("text", NEEDED + EXTRAS["grpc"])
def test_a_dependency_cannot_be_older_than_its_floor(text):
    requirement = Requirement(text)
    (minimum,) = (spec.version for spec in requirement.specifier if spec.operator == ">=")
    assert Version(minimum) >= Version(FLOORS.get(requirement.name, "0"))


def test_an_old_version_is_found():
    assert outdated({"h11": "0.14.0", "orjson": "3.13.0"}) == {"h11": "0.14.0"}


@pytest.mark.parametrize(
    ("licences", "allowed"),
    [
        ([{"license": {"id": "MIT"}}], True),
        ([{"expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}], True),
        ([{"license": {"name": "License :: OSI Approved :: BSD License"}}], True),
        ([{"expression": "Apache-2.0 WITH LLVM-exception"}], True),
        ([{"license": {"id": "AGPL-3.0-only"}}], False),
        ([{"expression": "MIT AND GPL-3.0-only"}], False),
        ([], False),
    ],
)
def test_licences_are_checked(licences, allowed):
    assert (unknown_licences([{"name": "x", "licenses": licences}]) == {}) is allowed


def test_each_distribution_needs_its_own_packages_only():
    assert names(CORE["project"]["dependencies"]) == {"numpy", "torch"}
    assert names(CLIENT["project"]["dependencies"]) == {
        *("anyio", "httpx", "ml_dtypes", "numpy", "websockets")
    }
    assert names(EXTRAS["grpc"]) == {
        *("grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf")
    }
    assert names(EXTRAS["triton"]) == {"triton"}
    assert not names(NEEDED) & (names(EXTRAS["grpc"]) | {"triton", "matplotlib"})
    assert names(EXTRAS["plot"]) == {"matplotlib"}
    assert "rope-service[docs,grpc,plot,triton]" in EXTRAS["test"]


def test_rope_core_is_described_as_in_the_service():
    core, service = CORE["project"], SERVICE["project"]
    assert core["version"] == __version__
    assert set(core["dependencies"]) <= set(NEEDED)
    for extra in ("plot", "triton"):
        assert core["optional-dependencies"][extra] == EXTRAS[extra]
    assert core["requires-python"] == service["requires-python"]
    core, service = CORE["tool"]["setuptools"], SERVICE["tool"]["setuptools"]
    for data in ("package-data", "exclude-package-data"):
        assert core[data]["rope_core"] == service[data]["rope_core"]


def test_all_distributions_have_one_version():
    assert {each["project"]["version"] for each in (CORE, CLIENT)} == {__version__}


def test_rope_core_lists_its_packages():
    found = [file.parent.relative_to(ROOT) for file in (ROOT / "rope_core").rglob("__init__.py")]
    packages = sorted(".".join(folder.parts) for folder in found if "build" not in folder.parts)
    assert CORE["tool"]["setuptools"]["packages"] == packages


def test_the_page_about_installing_names_what_there_is():
    page = (ROOT / "docs" / "install.md").read_text()
    assert set(re.findall(r"pip install (\./[\w/]+)", page)) == {"./rope_core", "./clients/python"}
    assert set(re.findall(r"subdirectory=([\w/]+)", page)) == {"rope_core", "clients/python"}
    extras = page.partition("## Extras")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", extras, re.MULTILINE)) == EXTRAS.keys()
