"""Volumes of the chart's pod: Secrets, and memory."""

from tests.deploy.manifests.pods import container, pod, variables
from tests.deploy.manifests.render import of_kind, render

MUTUAL = {"tls": {"enabled": True, "existingSecret": "rope-tls", "clientCa": {"enabled": True}}}


def test_secrets_are_folders_that_any_user_reads():
    values = {
        "keys": {"enabled": True, "existingSecret": "rope-keys", "secretKey": "k"},
        "tls": MUTUAL["tls"],
    }
    mounts = {each["name"]: each for each in container(values)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(values)["volumes"]}
    env = variables(values)
    for variable, volume, file, key in (
        ("ROPE_KEYS_FILE", "keys", "keys.toml", "k"),
        ("ROPE_TLS_CERT_FILE", "tls", "tls.crt", "tls.crt"),
        ("ROPE_TLS_KEY_FILE", "tls", "tls.key", "tls.key"),
        ("ROPE_TLS_CLIENT_CA_FILE", "client-ca", "ca.crt", "ca.crt"),
    ):
        assert env[variable] == f"{mounts[volume]['mountPath']}/{file}"
        assert "subPath" not in mounts[volume]
        secret = volumes[volume]["secret"]
        assert {"key": key, "path": file} in secret["items"]
        assert secret["defaultMode"] == 0o444
    assert volumes["keys"]["secret"]["secretName"] == "rope-keys"
    assert volumes["client-ca"]["secret"]["secretName"] == "rope-tls"
    assert of_kind(render(values), "Secret") == []


def test_secrets_are_made_of_values():
    values = {
        "keys": {"enabled": True, "content": "[a]\n"},
        "tls": {
            "enabled": True,
            "certificate": "C",
            "privateKey": "K",
            "clientCa": {"enabled": True, "certificate": "A"},
        },
    }
    keys, tls = of_kind(render(values), "Secret")
    assert keys["data"] == {"keys.toml": "W2FdCg=="}
    assert tls["type"] == "kubernetes.io/tls"
    assert tls["data"] == {"tls.crt": "Qw==", "tls.key": "Sw==", "ca.crt": "QQ=="}
    volumes = {each["name"]: each for each in pod(values)["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == keys["metadata"]["name"]
    assert volumes["tls"]["secret"]["secretName"] == tls["metadata"]["name"]
    assert volumes["client-ca"]["secret"]["secretName"] == tls["metadata"]["name"]


def test_memory_volumes():
    values = {"shm": {"enabled": True, "sizeLimit": "2Gi"}, "tmp": {"sizeLimit": "1Gi"}}
    volumes = {each["name"]: each.get("emptyDir") for each in pod(values)["volumes"]}
    assert volumes["tmp"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert volumes["shm"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    mounts = {each["name"]: each["mountPath"] for each in container(values)["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "shm": "/dev/shm"}
    assert [each["name"] for each in pod()["volumes"]] == ["tmp"]
