"""Versions of installed packages, and versions that pyproject.toml allows."""

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT
from tests.deploy.packages import FLOORS, outdated, unknown_licences

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


@pytest.mark.parametrize("text", PROJECT["dependencies"])
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
