"""The objects that KServe makes of deploy/kserve are valid, drain in time, and scale."""

import pytest

from tests.deploy.manifests import kserve
from tests.deploy.manifests.prometheus import evaluate
from tests.deploy.manifests.schemas import VERSIONS, schema_errors

RUNTIME = kserve.load("serving-runtime")
SESSIONS = kserve.load("inference-service-sessions")
each_service = pytest.mark.parametrize("name", kserve.services())


def container_of(name):
    [container] = kserve.pod_spec(RUNTIME, kserve.load(name))["containers"]
    return container


def test_there_is_a_file_for_cpus_for_gpus_and_for_sessions():
    assert kserve.services() == [f"inference-service-{each}" for each in ("cpu", "gpu", "sessions")]


def test_the_runtime_of_a_cluster_is_that_of_a_namespace():
    cluster = kserve.load("cluster-serving-runtime")
    assert cluster["kind"] == "ClusterServingRuntime"
    assert {**cluster, "kind": RUNTIME["kind"]} == RUNTIME


@each_service
@pytest.mark.parametrize("version", VERSIONS)
def test_the_deployment_that_kserve_makes_is_valid(name, version):
    assert schema_errors(kserve.deployment(RUNTIME, kserve.load(name)), version) == []


@pytest.mark.parametrize("name", ["pod-disruption-budget", "pod-monitor"])
def test_the_budget_and_the_monitor_are_valid(name):
    assert schema_errors(kserve.load(name)) == []


@each_service
def test_a_pod_drains_before_it_is_killed(name):
    pod = kserve.pod_spec(RUNTIME, kserve.load(name))
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    drain = float(env["ROPE_DRAIN_DELAY_S"]) + float(env["ROPE_DRAIN_S"])
    assert drain + 10 <= pod["terminationGracePeriodSeconds"]


@each_service
def test_the_variables_of_a_service_are_off(name):
    """A ServingRuntime has no such field, so each InferenceService must have it."""
    assert kserve.pod_spec(RUNTIME, kserve.load(name))["enableServiceLinks"] is False


@each_service
def test_the_first_port_is_http(name):
    ports = kserve.service_ports(RUNTIME, kserve.load(name))
    assert ports == {"http": (80, 8000), "grpc": (8001, 8001), "status": (8002, 8002)}
    assert RUNTIME["spec"]["annotations"]["prometheus.kserve.io/port"] == "8002"


@each_service
def test_probes_use_a_port_of_the_container(name):
    container = container_of(name)
    names = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in names


@each_service
def test_a_gpu_is_limited_and_requested_alike(name):
    container = container_of(name)
    env = {each["name"]: each.get("value") for each in container["env"]}
    limits, requests = (container["resources"][each] for each in ("limits", "requests"))
    assert limits["memory"] == requests["memory"]
    gpu = "nvidia.com/gpu"
    assert (env["ROPE_DEVICE"] == "cuda") == (gpu in limits)
    assert limits.get(gpu) == requests.get(gpu)


@each_service
def test_selectors_find_the_pods(name):
    service = kserve.load(name)
    labels = kserve.labels(service)
    [spread] = service["spec"]["predictor"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    [chosen] = kserve.load("pod-monitor")["spec"]["selector"]["matchExpressions"]
    assert labels[chosen["key"]] in chosen["values"]
    budget = kserve.load("pod-disruption-budget")["spec"]["selector"]["matchLabels"]
    assert name.endswith("sessions") or budget.items() <= labels.items()


def test_keda_gets_a_valid_object():
    made = kserve.scaled_object(SESSIONS)
    assert schema_errors(made) == []
    assert [each["metadata"]["threshold"] for each in made["spec"]["triggers"]] == [
        "0.700000",
        "0.300000",
    ]


def test_kserve_would_ignore_policies_of_scaling():
    behavior = SESSIONS["spec"]["predictor"]["autoScaling"]["behavior"]
    assert all([*rules] == ["stabilizationWindowSeconds"] for rules in behavior.values())


def of_pods(name, *values, **labels):
    """Return a constant series of each pod, in promtool's notation."""
    text = "".join(f',{key}="{value}"' for key, value in labels.items())
    common = 'job="rope-service",inferenceservice="rope-sessions"'
    return {
        f'{name}{{{common},pod="{pod}"{text}}}': f"{value}x16" for pod, value in enumerate(values)
    }


FULL = {
    **of_pods("rope_kv_bytes", 100, 50, 0, kind="reserved"),
    **of_pods("rope_kv_bytes", 0, 50, 0, kind="free"),
    **of_pods("rope_kv_bytes", 90, 40, 0, kind="used"),
    **of_pods("rope_queue_depth", 10, 20, 0),
    **of_pods("rope_queue_limit", 100, 100, 100),
}
"""Of three pods, one is full and one is half full; a third has no session yet."""
EMPTY = {
    **of_pods("rope_kv_bytes", 0, 0, kind="reserved"),
    **of_pods("rope_kv_bytes", 0, 0, kind="free"),
    **of_pods("rope_queue_depth", 0, 0),
    **of_pods("rope_queue_limit", 100, 100),
}


@pytest.mark.parametrize(("series", "memory", "queue"), [(FULL, 1.5, 0.3), (EMPTY, 0, 0)])
def test_the_queries_are_sums_in_units_of_full_pods(series, memory, queue, tmp_path):
    triggers = kserve.scaled_object(SESSIONS)["spec"]["triggers"]
    queries = [trigger["metadata"]["query"] for trigger in triggers]
    evaluate(tmp_path, series, dict(zip(queries, (memory, queue), strict=True)))
