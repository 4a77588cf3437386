"""The base and the overlays of kustomize have the objects of the chart's profiles."""

import shutil
import subprocess
from functools import cache

import pytest
import yaml

from tests.deploy.manifests.kustomize import BASE, FOLDER, OBJECTS, objects, text
from tests.deploy.manifests.references import dangling
from tests.deploy.manifests.render import Object, profile
from tests.deploy.manifests.schemas import VERSIONS, schema_errors

VALUES = {"base": BASE, "overlays/cpu": profile("cpu"), "overlays/gpu": profile("gpu")}


@cache
def built(folder: str) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", FOLDER / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_name(found: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_the_base_is_current():
    assert OBJECTS.read_text() == text(), "run python -m tests.deploy.manifests.kustomize"


@pytest.mark.parametrize("folder", VALUES)
def test_kustomize_builds_what_the_chart_makes(folder):
    found = [*yaml.safe_load_all(built(folder))]
    assert by_name(found) == by_name(objects(VALUES[folder]))
    assert dangling(found) == []
    assert [
        error for each in found for version in VERSIONS for error in schema_errors(each, version)
    ] == []


@pytest.mark.parametrize("folder", VALUES)
def test_nothing_belongs_to_helm_or_to_a_namespace(folder):
    for each in yaml.safe_load_all(built(folder)):
        assert "namespace" not in each["metadata"]
    assert "helm" not in built(folder).lower()
