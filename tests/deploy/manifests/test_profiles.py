"""Each profile renders to valid objects without dangling references."""

import helm_python
import pytest

from tests.deploy.manifests.references import dangling
from tests.deploy.manifests.render import CHART, of_kind, profile, profiles, rendered
from tests.deploy.manifests.schemas import VERSIONS, schema_errors

PROFILES = profiles()

USER_SECRETS = ("rope-keys", "rope-tls", "rope-session-key")
"""Secrets that the profiles name and the chart does not make."""


def test_all_profiles_are_there():
    expected = {"cpu", "gpu", "gpu-4", "mig", "sessions", "secure", "keda", "minimal"}
    assert set(PROFILES) == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PROFILES)
def test_all_objects_are_valid(name, version):
    objects = rendered(name)
    assert of_kind(objects, "Deployment", "StatefulSet")
    assert [error for each in objects for error in schema_errors(each, version)] == []


@pytest.mark.parametrize("name", PROFILES)
def test_no_object_names_something_that_is_not_there(name):
    assert dangling(rendered(name), USER_SECRETS) == []


@pytest.mark.parametrize("name", PROFILES)
def test_no_object_is_there_twice(name):
    seen = [(each["kind"], each["metadata"]["name"]) for each in rendered(name)]
    assert sorted(set(seen)) == sorted(seen)


@pytest.mark.parametrize("name", PROFILES)
def test_helm_lint_finds_nothing(name):
    report = helm_python.lint(CHART, profile(name), strict=True, with_subcharts=False)
    findings = [each for each in report["messages"] if each["severity"] > 1]
    assert (findings, report["errors"]) == ([], [])


def test_the_package_has_the_rules_and_the_dashboard(tmp_path):
    """Links of the chart's folder are files in the package."""
    archive = helm_python.package(CHART, destination=tmp_path)
    helm_python.expand(tmp_path, archive)
    files = tmp_path / CHART.name / "files"
    for name, source in (
        ("rules.yaml", "prometheus/rules.yaml"),
        ("dashboard.json", "grafana/rope-service.json"),
    ):
        copy = files / name
        assert not copy.is_symlink()
        assert copy.read_bytes() == (CHART.parents[1] / source).read_bytes()
