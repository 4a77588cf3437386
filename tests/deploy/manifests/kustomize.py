"""Writes deploy/kustomize/base from the chart.

.venv-deploy/bin/python -m tests.deploy.manifests.kustomize
"""

from typing import Any

from tests.deploy.manifests.render import ROOT, Object, Values, dump, render

FOLDER = ROOT / "deploy" / "kustomize"
OBJECTS = FOLDER / "base" / "objects.yaml"

BASE: Values = {"networkPolicy": {"enabled": True}}
"""Values of the base; the others are the chart's defaults."""

HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""Labels that only objects installed by Helm may have."""


def objects(values: Values) -> list[Object]:
    """Return the objects of the chart for some values, without labels and hooks of Helm."""
    rendered = render(values, name="rope-service")
    return [_plain(each) for each in rendered if "annotations" not in each["metadata"]]


def _plain(part: Any) -> Any:
    if isinstance(part, list):
        return [_plain(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _plain(value)
        for key, value in part.items()
        if key not in HELM_LABELS and (key, value) != ("namespace", "rope")
    }


def text() -> str:
    """Return the contents of deploy/kustomize/base/objects.yaml."""
    header = (
        "# Made from the chart by `python -m tests.deploy.manifests.kustomize`: change the chart.\n"
    )
    return header + dump(objects(BASE))


if __name__ == "__main__":
    OBJECTS.parent.mkdir(parents=True, exist_ok=True)
    OBJECTS.write_text(text())
