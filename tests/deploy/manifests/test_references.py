"""The check of references finds each kind of reference that leads nowhere."""

import copy

import pytest

from tests.deploy.manifests.references import dangling
from tests.deploy.manifests.render import Object, merge, of_kind, profile, render

ALL = merge(
    profile("sessions"),
    {
        "autoscaling": {"keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}},
        "metrics": {
            "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics-key"}},
        },
        "networkPolicy": {"enabled": True},
    },
)
OUTSIDE = ("rope-keys", "rope-session-key")


def change(obj: Object, path: str, value: object) -> None:
    *at, last = path.split(".")
    for key in at:
        obj = obj[int(key)] if key.isdigit() else obj[key]
    obj[last] = value


POD = "spec.template.spec"


@pytest.mark.parametrize(
    ("kind", "path", "value", "expected"),
    [
        ("Service", "spec.selector", {"app": "other"}, "pods of 0 workloads"),
        ("Service", "spec.ports.0.targetPort", "https", "port https"),
        ("StatefulSet", "spec.serviceName", "other", "no Service other"),
        ("StatefulSet", "spec.replicas", 2, "an upgrade would set the number of pods"),
        ("StatefulSet", f"{POD}.serviceAccountName", "other", "no ServiceAccount other"),
        ("StatefulSet", f"{POD}.volumes", [{"name": "tmp", "emptyDir": {}}], "no volume"),
        ("StatefulSet", f"{POD}.containers.0.volumeMounts", [], "is not mounted"),
        ("StatefulSet", "spec.selector.matchLabels", {"app": "other"}, "labels of its pods"),
        ("PodDisruptionBudget", "spec.selector.matchLabels", {"app": "other"}, "of 0 workloads"),
        ("ScaledObject", "spec.scaleTargetRef.kind", "Deployment", "no Deployment"),
        ("ServiceMonitor", "spec.selector.matchLabels", {}, "each pod must be read once"),
        ("ServiceMonitor", "spec.endpoints.0.port", "metrics", "no port metrics"),
    ],
)
def test_a_wrong_reference_is_found(kind, path, value, expected):
    objects = copy.deepcopy(render(ALL))
    assert dangling(objects, OUTSIDE) == []
    change(of_kind(objects, kind)[0], path, value)
    assert expected in "\n".join(dangling(objects, OUTSIDE))


def test_a_secret_that_nobody_makes_is_found():
    assert any("no Secret rope-keys" in each for each in dangling(render(ALL)))
