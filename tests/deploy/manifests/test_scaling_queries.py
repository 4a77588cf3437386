"""The queries of KEDA, computed by Prometheus' own tool."""

import pytest

from tests.deploy.expressions import TARGET_LABELS, unknown_names
from tests.deploy.manifests.prometheus import evaluate, service_metrics
from tests.deploy.manifests.render import Values, merge, of_kind, profile, render

KEDA = {"autoscaling": {"keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}}}
DEPLOYMENT = merge(profile("cpu"), KEDA, {"fullnameOverride": "rope"})
SESSIONS = merge(
    profile("sessions"), KEDA, {"fullnameOverride": "rope", "autoscaling": {"maxReplicas": 4}}
)
IN_KUBERNETES = TARGET_LABELS | {"namespace", "pod"}

NEW, OLD = "rope-6d4cf56db6-x7k2p", "rope-6d4cf56db6-abcde"
OTHERS = ("rope-two-6d4cf56db6-x7k2p", "rope-router-6d4cf56db6-x7k2p", "other-6d4cf56db6-x7k2p")


def queries(values: Values) -> dict[str, str]:
    (found,) = of_kind(render(values, namespace="ns"), "ScaledObject")
    return {each["name"]: each["metadata"]["query"] for each in found["spec"]["triggers"]}


def of_pod(name: str, pod: str, namespace: str = "ns", **labels: str) -> str:
    """Return the series of a pod, as the operator's Prometheus names it."""
    every = {"namespace": namespace, "pod": pod, "job": "rope-service", **labels}
    labels_text = ",".join(f'{key}="{value}"' for key, value in every.items())
    return f"{name}{{{labels_text}}}"


def constant(value: float) -> str:
    return f"{value}x16"


@pytest.mark.parametrize("values", [DEPLOYMENT, SESSIONS])
def test_queries_name_metrics_and_labels_that_are_there(values):
    for name, query in queries(values).items():
        assert unknown_names(query, service_metrics(), IN_KUBERNETES) == [], name


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum(rope_queue_dept)", ["rope_queue_dept"]),
        ('sum(rope_queue_depth{service="a"})', ["rope_queue_depth{service}"]),
        ("sum by (tenant) (rope_queue_depth)", ["tenant"]),
    ],
)
def test_an_unknown_name_is_found(query, expected):
    assert unknown_names(query, service_metrics(), IN_KUBERNETES) == expected


def test_the_sum_over_the_pods_of_the_release(tmp_path):
    series = {}
    for pod, share in ((NEW, 0.5), (OLD, 0.25), *((other, 1) for other in OTHERS)):
        series |= {
            of_pod("rope_queue_depth", pod): constant(share * 100),
            of_pod("rope_queue_limit", pod): constant(100),
            of_pod("rope_admitted_bytes", pod): constant(share * 1000),
            of_pod("rope_admission_limit_bytes", pod): constant(1000),
            of_pod("rope_device_busy_seconds_total", pod): f"0+{share * 30}x16",
            of_pod("rope_device_lanes", pod): constant(2),
        }
    series |= {
        of_pod("rope_queue_depth", NEW, "elsewhere"): constant(100),
        of_pod("rope_queue_limit", NEW, "elsewhere"): constant(100),
    }
    found = queries(DEPLOYMENT)
    evaluate(tmp_path, series, {found[name]: 0.75 for name in ("queue", "memory", "busy")})


def test_a_pod_that_is_read_twice_counts_once(tmp_path):
    series = {}
    for job in ("rope-service", "pods"):
        series |= {
            of_pod("rope_queue_depth", NEW, job=job): constant(50),
            of_pod("rope_queue_limit", NEW, job=job): constant(100),
        }
    evaluate(tmp_path, series, {queries(DEPLOYMENT)["queue"]: 0.5})


@pytest.mark.parametrize("values", [DEPLOYMENT, SESSIONS])
def test_without_samples_there_is_no_value(values, tmp_path):
    """KEDA then fails, and the number of pods stays; 0 would remove pods."""
    evaluate(tmp_path, {}, dict.fromkeys(queries(values).values(), None))


def kv(pod: str, reserved: int, free: int, used: int = 0) -> dict[str, str]:
    kinds = {"reserved": reserved, "free": free, "used": used}
    return {
        of_pod("rope_kv_bytes", pod, kind=kind): constant(value) for kind, value in kinds.items()
    }


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (kv("rope-0", 300, 100) | kv("rope-1", 100, 300, used=90), 1.0),
        (kv("rope-0", 300, 100) | kv("rope-1", 0, 0), 0.75),  # nothing is allocated yet
        (kv("rope-0", 0, 0), 0),
        (kv("rope-0", 400, 0), 1.0),
        (kv("rope-0", 300, 100) | kv("rope-two-0", 300, 100), 0.75),
    ],
)
def test_memory_that_sessions_have_reserved(series, expected, tmp_path):
    evaluate(tmp_path, series, {queries(SESSIONS)["kv"]: expected})


def sessions(**number: int) -> dict[str, str]:
    found = {}
    for pod, count in number.items():
        name = pod.replace("_", "-")
        found[of_pod("rope_ready", name)] = constant(1)
        if count >= 0:
            found[of_pod("rope_sessions", name, tier="device", state="idle")] = constant(count)
            found[of_pod("rope_sessions", name, tier="device", state="active")] = constant(0)
    return found


@pytest.mark.parametrize(
    ("series", "pods"),
    [
        (sessions(rope_0=5, rope_1=0, rope_2=1, rope_3=0), 3),
        (sessions(rope_0=5, rope_1=1, rope_2=0, rope_3=0), 2),
        (sessions(rope_0=0, rope_1=0, rope_2=0, rope_3=7), 4),
        (sessions(rope_0=0, rope_1=0), 0),
        (sessions(rope_0=-1, rope_1=-1), 0),  # before the first session
        (sessions(rope_0=1, rope_two_3=9), 1),
    ],
)
def test_no_pod_below_the_highest_that_has_sessions_is_removed(series, pods, tmp_path):
    evaluate(tmp_path, series, {queries(SESSIONS)["occupied"]: pods})
