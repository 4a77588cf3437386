"""The pod of the chart: health, stop, settings, devices, security, volumes."""

import pytest

from tests.deploy.manifests.pods import container, pod, variables, workload
from tests.deploy.manifests.render import chart, merge, of_kind, profile, profiles, render

TLS = {"tls": {"enabled": True, "existingSecret": "rope-tls"}}
MUTUAL = {"tls": TLS["tls"] | {"clientCa": {"enabled": True}}}
NO_STATUS_PORT = {"ports": {"status": 0}}


def _probes(values):
    rendered = container(values)
    return [rendered[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]


@pytest.mark.parametrize(
    ("values", "ready", "live"),
    [
        ({}, "status HTTP", "status HTTP"),
        (TLS, "status HTTP", "status HTTP"),
        (MUTUAL, "status HTTP", "status HTTP"),
        ({"probes": {"handler": "http"}}, "http HTTP", "http HTTP"),
        ({"probes": {"handler": "http"}} | NO_STATUS_PORT, "http HTTP", "http HTTP"),
        ({"probes": {"handler": "http"}} | TLS, "http HTTPS", "http HTTPS"),
        ({"probes": {"handler": "grpc"}}, "grpc 8001", "status HTTP"),
        ({"probes": {"handler": "grpc"}} | NO_STATUS_PORT, "grpc 8001", "http HTTP"),
    ],
)
def test_probes_ask_a_port_that_answers_them(values, ready, live):
    startup, readiness, liveness = _probes(values)
    for probe, expected, path in (
        (startup, ready, "/readyz"),
        (readiness, ready, "/readyz"),
        (liveness, live, "/healthz"),
    ):
        if "grpc" in probe:
            assert f"grpc {probe['grpc']['port']}" == expected
        else:
            get = probe["httpGet"]
            assert (f"{get['port']} {get['scheme']}", get["path"]) == (expected, path)


def test_a_start_may_take_two_minutes_and_a_drain_is_seen_before_the_listener_closes():
    startup, readiness, _ = _probes({})
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    unseen_s = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert unseen_s < float(variables()["ROPE_DRAIN_DELAY_S"])


@pytest.mark.parametrize(
    ("drain", "grace_s"),
    [
        ({}, 40),
        ({"delaySeconds": 15}, 50),
        ({"seconds": 2.5, "delaySeconds": 0, "marginSeconds": 1}, 4),
        ({"gracePeriodSeconds": 300}, 300),
    ],
)
def test_the_grace_period_follows_from_the_drain(drain, grace_s):
    values = {"drain": drain}
    assert pod(values)["terminationGracePeriodSeconds"] == grace_s
    env = variables(values)
    assert float(env["ROPE_DRAIN_DELAY_S"]) == drain.get("delaySeconds", 5)
    assert float(env["ROPE_DRAIN_S"]) == drain.get("seconds", 20)


def test_settings_are_written_as_the_service_reads_them():
    env = variables(
        {
            "settings": {
                "ROPE_MEMORY_BUDGET_BYTES": 60_000_000_000,
                "ROPE_MAX_QUEUE_S": 0.25,
                "ROPE_PAGE": False,
                "ROPE_LOG_LEVEL": "debug",
                "ROPE_HTTP_HOST": "::",
            }
        }
    )
    assert env["ROPE_MEMORY_BUDGET_BYTES"] == "60000000000"
    assert env["ROPE_MAX_QUEUE_S"] == "0.25"
    assert env["ROPE_PAGE"] == "false"
    assert env["ROPE_LOG_LEVEL"] == "debug"
    assert env["ROPE_HTTP_HOST"] == "::"


def test_a_check_of_host_lets_the_cluster_in():
    """Prometheus calls a pod by its address, clients a Service by its name."""
    sessions = {"enabled": True, "open": True, "signingKey": {"existingSecret": "key"}}
    values = {"settings": {"ROPE_ALLOWED_HOSTS": "rope.example.com"}, "sessions": sessions}
    names = [each["name"] for each in container(values)["env"]]
    assert names.index("POD_IP") < names.index("ROPE_ALLOWED_HOSTS")
    hosts = variables(values)["ROPE_ALLOWED_HOSTS"].split(",")
    assert hosts[:2] == ["rope.example.com", "$(POD_IP)"]
    assert "rope-rope-service.rope.svc" in hosts
    assert "$(POD_NAME).rope-rope-service-headless.rope.svc.cluster.local" in hosts
    assert variables(values)["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert not {"POD_IP", "ROPE_ALLOWED_HOSTS"} & set(variables())


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({"requests": {"cpu": "4"}}, "4"),
        ({"requests": {"cpu": "1500m"}}, "1"),
        ({"requests": {"cpu": "250m"}}, "1"),
        ({"requests": {"cpu": 3}}, "3"),
        ({"requests": {"cpu": "4"}, "limits": {"cpu": "4"}}, None),
        ({"requests": {"cpu": None}}, None),
    ],
)
def test_without_a_limit_of_cpus_the_request_decides_the_threads(resources, threads):
    assert variables({"resources": resources}).get("ROPE_THREADS") == threads
    chosen = {"resources": resources, "settings": {"ROPE_THREADS": 9}}
    assert variables(chosen)["ROPE_THREADS"] == "9"


def test_other_variables_come_after_those_of_the_chart():
    from_pod = {"name": "ROPE_THREADS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    values = {
        "env": [{"name": "OTHER", "value": "1"}, from_pod],
        "resources": {"limits": {"cpu": "2"}},
        "envFrom": [{"secretRef": {"name": "more"}}],
    }
    assert container(values)["env"][-2:] == values["env"]
    assert container(values)["envFrom"] == values["envFrom"]


@pytest.mark.parametrize("values", [*map(profile, profiles()), MUTUAL])
def test_the_chart_sets_variables_that_the_service_knows(values):
    """The service does not start with an unknown ROPE_ variable."""
    known = chart().schema["definitions"]["settings"]["properties"]
    names = {name for name in variables(values) if name.startswith("ROPE_")}
    assert names >= {"ROPE_DEVICE", "ROPE_SESSIONS", "ROPE_DRAIN_S"}
    assert names <= known.keys()


def test_no_variable_is_set_twice():
    for values in ({}, TLS, {"settings": {"ROPE_HTTP_HOST": "::", "ROPE_THREADS": 3}}):
        names = [each["name"] for each in container(values)["env"]]
        assert len(names) == len(set(names))


def test_a_cpu_pod_takes_no_gpu():
    assert variables()["ROPE_DEVICE"] == "cpu"
    assert "nvidia" not in str(workload())


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_a_gpu_pod_takes_one(resource):
    values = {"device": "gpu", "gpu": {"resource": resource}, "replicaCount": 4}
    assert container(values)["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi", resource: 1},
        "limits": {"memory": "4Gi", resource: 1},
    }
    assert variables(values)["ROPE_DEVICE"] == "cuda"
    assert "ROPE_THREADS" not in variables(values)
    assert workload(values)["spec"]["replicas"] == 4
    assert [each["key"] for each in pod(values)["tolerations"]] == ["nvidia.com/gpu"]


def test_a_gpu_may_be_claimed():
    values = {"device": "gpu", "gpu": {"resource": "", "resourceClaimTemplate": "one-gpu"}}
    [claim] = pod(values)["resourceClaims"]
    assert claim == {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
    assert container(values)["resources"]["claims"] == [{"name": "gpu"}]


def test_the_pod_is_locked_down():
    values = {"podSecurityContext": {"runAsUser": 12345}}
    assert pod(values)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 12345,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert "runAsUser" not in pod()["securityContext"]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False


@pytest.mark.parametrize("name", profiles())
def test_every_pod_is_allowed_where_only_restricted_pods_are(name):
    """The profile "restricted" of Kubernetes' Pod Security Standards."""
    values = merge(profile(name), {"shm": {"enabled": True}})
    pods = [
        each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
        for each in of_kind(render(values), "Deployment", "StatefulSet", "Pod")
    ]
    assert len(pods) >= 2
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser") != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec.get("volumes", []):
            assert {"emptyDir", "secret", "configMap"} & volume.keys()
        for each in spec["containers"]:
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert not any("hostPort" in port for port in each.get("ports", []))
            assert each["resources"]["limits"]["memory"]


def test_scheduling_and_more_parts_of_the_pod():
    values = {
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
        "schedulerName": "mine",
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "presets", "configMap": {"name": "presets"}}],
        "volumeMounts": [{"name": "presets", "mountPath": "/presets"}],
        "initContainers": [{"name": "first", "image": "{{ .Values.image.repository }}:x"}],
        "sidecars": [{"name": "beside", "image": "b"}],
        "podAnnotations": {"a": "1"},
        "podLabels": {"team": "x"},
        "extraPodSpec": {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}},
    }
    rendered = pod(values)
    for name in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
        assert rendered[name] == values[name]
    assert rendered["dnsConfig"] == values["extraPodSpec"]["dnsConfig"]
    for name in ("runtimeClassName", "priorityClassName", "schedulerName"):
        assert rendered[name] == values[name]
    assert rendered["volumes"][-1] == values["volumes"][0]
    assert rendered["containers"][0]["volumeMounts"][-1] == values["volumeMounts"][0]
    assert rendered["initContainers"] == [{"name": "first", "image": "rope-service:x"}]
    assert [each["name"] for each in rendered["containers"]] == ["rope-service", "beside"]
    metadata = workload(values)["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"a": "1"}
    assert metadata["labels"]["team"] == "x"


def test_pods_are_spread_over_nodes_by_their_own_labels():
    [spread] = pod()["topologySpreadConstraints"]
    labels = workload()["spec"]["template"]["metadata"]["labels"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "rope-service:0.1.0"),
        ({"repository": "registry.example.com/rope", "tag": "v2"}, "registry.example.com/rope:v2"),
        ({"tag": "v2", "digest": "sha256:" + "0" * 64}, "rope-service@sha256:" + "0" * 64),
    ],
)
def test_the_image(image, reference):
    assert container({"image": image})["image"] == reference


@pytest.mark.parametrize(
    ("surge", "expected"),
    [(True, {"maxSurge": 1, "maxUnavailable": 0}), (False, {"maxSurge": 0, "maxUnavailable": 1})],
)
def test_an_update_with_and_without_a_spare_gpu(surge, expected):
    values = {"updateStrategy": {"surge": surge}}
    assert workload(values)["spec"]["strategy"]["rollingUpdate"] == expected


@pytest.mark.parametrize(
    ("values", "deadline_s"),
    [
        ({}, 720),
        ({"probes": {"startup": {"failureThreshold": 300}}, "minReadySeconds": 5}, 1205),
        ({"progressDeadlineSeconds": 99}, 99),
    ],
)
def test_an_update_does_not_fail_while_a_pod_may_still_start(values, deadline_s):
    assert workload(values)["spec"]["progressDeadlineSeconds"] == deadline_s


def test_labels_select_the_pods_and_do_not_change_with_the_chart():
    spec = workload()["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert "helm.sh/chart" not in labels
