"""Each distribution works in an environment with nothing but what its wheel asks for."""

import json
import os
import subprocess
import sys
import zlib
from importlib.metadata import Distribution, distribution
from zipfile import ZipFile

import httpx
import pytest
from packaging.requirements import Requirement

from rope_core import compiled
from rope_core.hf.families import TABLES
from tests.conftest import ROOT
from tests.deploy.installations import (
    CLIENT_CALL,
    CORE_CALL,
    PROJECTS,
    UNNEEDED,
    Environment,
    copy_sources,
    is_rotated,
    rotate_over_http,
)

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def needed(owner, extras=frozenset(("",))):
    """Yield the distributions that `owner` needs, direct and indirect, installed here."""
    for requirement in map(Requirement, owner.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            dependency = distribution(requirement.name)
            yield dependency
            yield from needed(dependency, frozenset(("", *requirement.extras)))


def link_needed(environment, name):
    """Link the packages that a distribution needs into its environment."""
    (own,) = environment.site_packages.glob(f"{name.replace('-', '_')}-*.dist-info")
    for dependency in needed(Distribution.at(own)):
        for top in {file.parts[0] for file in dependency.files} - {"..", "__pycache__"}:
            link = environment.site_packages / top
            if not link.exists():
                link.symlink_to(dependency.locate_file(top))


def install(wheel, environment):
    """Install a wheel without what it needs."""
    if "rope_service" not in wheel.name:
        ZipFile(wheel).extractall(environment.site_packages)
        return
    pip = [sys.executable, "-m", "pip", "--python", environment.bin / "python", "install"]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--ignore-installed"]
    subprocess.run([*pip, *options, wheel], check=True)  # writes the command rope-service


def core_files(environment):
    """Return the bytes of each file of rope_core, except the compiled ones."""
    return {
        str(file.relative_to(environment.site_packages)): file.read_bytes()
        for file in (environment.site_packages / "rope_core").rglob("*")
        if file.is_file() and file.suffix not in (".so", ".pyc")
    }


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """An environment of each distribution; the wheel of the service is built without a compiler."""
    folder = tmp_path_factory.mktemp("installations")
    copy_sources(folder)
    made = {}
    for name, project in PROJECTS.items():
        wheels = folder / "wheels" / name
        subprocess.run(
            [sys.executable, "-c", BUILD, wheels],
            cwd=folder / project,
            env=os.environ | ({"CC": "false"} if name == "rope-service" else {}),
            capture_output=True,
            check=True,
        )
        (wheel,) = wheels.glob("*.whl")
        made[name] = Environment(folder / "environments" / name)
        install(wheel, made[name])
        link_needed(made[name], name)
    return made


@pytest.fixture(scope="module")
def service(environments, tmp_path_factory):
    """The address of the installed service, and its log."""
    log = tmp_path_factory.mktemp("service") / "service.log"
    with environments["rope-service"].serve(log) as url:
        yield url, log


@pytest.mark.parametrize("name", PROJECTS)
def test_distribution_does_not_bring_what_others_need(environments, name):
    assert environments[name].importable(UNNEEDED[name]) == []
    assert environments[name].importable(("numpy",)) == ["numpy"]


def test_core_rotates(environments):
    response = environments["rope-core"].run(CORE_CALL)
    assert is_rotated(response)
    assert response["compiled"] == (compiled.extension() is not None)


def test_service_without_grpc_and_compiler_rotates_over_a_socket(environments, service):
    url, log = service
    assert not list(environments["rope-service"].site_packages.glob("rope_core/*.so"))
    assert is_rotated(rotate_over_http(url))
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (message,) = [record["message"] for record in records if "gRPC" in record.get("message", "")]
    assert message == "gRPC is off; to turn it on: pip install 'rope-service[grpc]'"


def test_the_wheel_of_the_service_has_every_file_of_the_page(environments):
    static = ROOT / "service" / "page" / "static"
    installed = environments["rope-service"].site_packages / "service" / "page" / "static"
    files = {file.relative_to(static) for file in static.rglob("*") if file.is_file()}
    assert files == {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()}
    compressed = sum(len(zlib.compress((static / file).read_bytes())) for file in files)
    assert compressed <= 400_000, "the wheel grows by 0.4 MB at most"


def test_the_installed_service_has_the_page(service):
    url, _ = service
    answer = httpx.get(f"{url}/", headers={"accept": "text/html"}, follow_redirects=True)
    assert answer.url.path == "/ui/"
    assert "<main" in answer.text


def test_client_rotates_without_torch(environments, service):
    url, _ = service
    assert is_rotated(environments["rope-client"].run(CLIENT_CALL, url))


def test_service_without_grpc_refuses_a_grpc_port(environments):
    code, stderr = environments["rope-service"].command("serve", "--grpc-port", "0")
    assert code == 2
    assert stderr == (
        "rope-service: grpc_port is set, but gRPC is not installed: "
        "pip install 'rope-service[grpc]', or leave ROPE_GRPC_PORT and --grpc-port out\n"
    )


def test_both_wheels_have_the_same_core(environments):
    core, service = (core_files(environments[name]) for name in ("rope-core", "rope-service"))
    assert core == service
    assert {"rope_core/py.typed", *(f"rope_core/hf/{table}" for table in TABLES)} <= core.keys()
