"""checkov finds nothing in the manifests but the findings that checkov.yaml explains."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests.kustomize import objects
from tests.deploy.manifests.render import ROOT, dump, profile, profiles, rendered

REASONS = yaml.safe_load((Path(__file__).parent / "checkov.yaml").read_text())

LOOSE_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "loose", "namespace": "rope"},
    "spec": {"hostNetwork": True, "containers": [{"name": "a", "image": "a"}]},
}


def findings(folder: Path) -> list[dict[str, Any]]:
    checkov = shutil.which("checkov")
    if checkov is None:
        pytest.skip("checkov is not installed")
    command = [checkov, "--directory", folder, "--framework", "kubernetes", "--output", "json"]
    done = subprocess.run(
        [*command, "--compact", "--quiet", "--skip-download", "--soft-fail"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"BC_SKIP_MAPPING": "TRUE", "LOG_LEVEL": "ERROR"},
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] > 0
    return report["results"]["failed_checks"]


def has_reason(finding: dict[str, Any], line: dict[str, str]) -> bool:
    return finding["check_id"] == line["check"] and bool(
        re.fullmatch(line["resources"], finding["resource"])
    )


def test_each_finding_has_a_reason_and_each_reason_a_finding(tmp_path):
    """One run for all files: checkov takes seconds to start."""
    for name in profiles():
        (tmp_path / f"{name}.yaml").write_text(dump(rendered(name)))
    for name in ("cpu", "gpu"):
        (tmp_path / f"kustomize-{name}.yaml").write_text(dump(objects(profile(name))))
    for path in (ROOT / "deploy" / "kserve").glob("*.yaml"):
        shutil.copy(path, tmp_path / f"kserve-{path.name}")
    (tmp_path / "loose.yaml").write_text(dump([LOOSE_POD]))
    found = findings(tmp_path)
    loose = {each["check_id"] for each in found if each["resource"] == "Pod.rope.loose"}
    assert {"CKV_K8S_19", "CKV_K8S_13"} <= loose, "checkov did not find a bad pod"
    others = [each for each in found if each["resource"] != "Pod.rope.loose"]
    assert not [
        (each["check_id"], each["check_name"], each["resource"], each["file_path"])
        for each in others
        if not any(has_reason(each, line) for line in REASONS)
    ]
    assert not [line for line in REASONS if not any(has_reason(each, line) for each in others)]
    assert all(len(line["reason"]) > 40 for line in REASONS)
