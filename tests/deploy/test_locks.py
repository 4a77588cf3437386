"""The locks of the image's packages, beside pyproject.toml and constraints.txt."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.deploy.locks import FOLDER, NAMES, locks, read
from tests.deploy.packages import ABSENT, outdated
from tools.lock import needed

LOCKS = locks()
CONSTRAINTS = {
    canonicalize_name(requirement.name): str(requirement.specifier)
    for requirement in map(Requirement, (ROOT / "constraints.txt").read_text().split())
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["grpc"]
PLATFORMS = [
    {"python_full_version": f"{version}.0", "python_version": version, "sys_platform": "linux"}
    | {"platform_machine": machine, "platform_system": "Linux", "extra": ""}
    for version in ("3.11", "3.12")
    for machine in ("x86_64", "aarch64")
]


@pytest.mark.parametrize("name", NAMES)
def test_each_package_is_pinned_with_hashes(name):
    for pin in LOCKS[name].values():
        assert pin.version
        assert pin.hashes


@pytest.mark.parametrize("name", NAMES)
def test_each_direct_requirement_is_in_its_range(name):
    for requirement in map(Requirement, needed()[name]):
        pin = LOCKS[name][canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement


def test_torch_is_what_make_installs_and_pyproject_allows():
    assert f"TORCH ?= torch=={LOCKS['torch']['torch'].version}\n" in (ROOT / "Makefile").read_text()
    (requirement,) = [r for r in map(Requirement, REQUIREMENTS) if r.name == "torch"]
    assert requirement.specifier.contains(LOCKS["torch"]["torch"].version)


def test_image_installs_what_the_service_needs_and_grpc():
    locked = LOCKS["service"].keys() | LOCKS["torch"].keys()
    assert {canonicalize_name(Requirement(t).name) for t in REQUIREMENTS} <= locked
    assert not {"torch", "triton"} & LOCKS["service"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_those_of_constraints(name):
    for package, pin in LOCKS[name].items():
        assert str(pin.requirement.specifier) == CONSTRAINTS.get(package, f"=={pin.version}")


def test_a_package_has_one_version_in_all_locks():
    versions = {}
    for lock in LOCKS.values():
        for package, pin in lock.items():
            assert versions.setdefault(package, pin.version) == pin.version, package


@pytest.mark.parametrize(
    "platform", PLATFORMS, ids=lambda p: f"{p['python_version']}-{p['platform_machine']}"
)
def test_dependencies_of_installed_packages_are_locked(platform):
    checked = 0
    for package in LOCKS["torch"] | LOCKS["service"]:
        try:
            found = distribution(package)
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker and not requirement.marker.evaluate(platform):
                continue
            dependency = canonicalize_name(requirement.name)
            lock = (LOCKS["torch"] | LOCKS["service"]).get(dependency)
            assert lock is not None, f"{package} needs {dependency}"
            assert requirement.specifier.contains(lock.version), f"{package}: {requirement}"
            marker = lock.requirement.marker
            assert marker is None or marker.evaluate(platform), dependency
            checked += 1
    assert checked > 30, "hardly any package of the locks is installed"


def test_packages_may_be_released():
    versions = {
        package: pin.version for package, pin in (LOCKS["torch"] | LOCKS["service"]).items()
    }
    assert outdated(versions) == {}
    assert not ABSENT & versions.keys()


@pytest.mark.parametrize("name", NAMES)
def test_no_address_of_a_registry_is_in_a_lock(name):
    text = (FOLDER / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_the_image_installs_by_hashes_only():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = [part for part in re.split("&&|\n", text) if re.search(r"/pip\b.* install ", part)]
    (service,) = [part for part in installs if "--no-deps /wheel/*.whl" in part]
    installs.remove(service)
    assert len(installs) == len(NAMES)
    for name, install in zip(("torch", "wheel", "service", "sbom"), installs, strict=True):
        assert f"--require-hashes --requirement /requirements/{name}.txt" in install
        if name != "torch":  # there TORCH_SPEC may take the place of the lock
            assert install.strip().endswith(f"/requirements/{name}.txt"), "it installs more"
        assert "--only-binary :all:" in install, "code of a source distribution must not run"
    assert "pip wheel --no-deps --no-build-isolation" in text, "or pip fetches setuptools unlocked"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy>=2.0 --hash=sha256:" + "0" * 64, "not pinned"),
        ("numpy==2.* --hash=sha256:" + "0" * 64, "not pinned"),
        ("numpy==2.4.6 --hash=md5:0", "not a hash"),
        ("numpy==2.4.6\nNumPy==2.4.5", "two versions"),
    ],
)
def test_a_line_that_pins_nothing_is_found(text, message):
    with pytest.raises(AssertionError, match=message):
        assert [pin.version for pin in read(text).values()]
