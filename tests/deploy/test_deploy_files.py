"""Properties of the Dockerfile and the compose file that can be checked without an engine."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from service import __version__
from service.__main__ import MALLOC
from service.lifecycle import EXIT_CODES
from service.settings import PREFIX, Settings
from tests.deploy import image
from tools.image_labels import build_arguments

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = ROOT / "deploy" / "compose.yaml"
BASE = "${BASE}${BASE_DIGEST:+@$BASE_DIGEST}"
LABELS = (
    *("title", "description", "licenses", "version", "revision", "created", "source"),
    *("base.name", "base.digest"),
)


@pytest.fixture(scope="module")
def instructions():
    """The (instruction, arguments) of each step."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    steps = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [tuple(step.split(maxsplit=1)) for step in steps]


@pytest.fixture(scope="module")
def last_stage(instructions):
    """The arguments of the last stage by instruction."""
    last = max(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    by_instruction = {}
    for name, arguments in instructions[last + 1 :]:
        by_instruction.setdefault(name, []).append(arguments)
    return by_instruction


@pytest.fixture(scope="module")
def variables(instructions, last_stage):
    """The environment of the last stage, including that of its base stage."""
    first = instructions.index(("FROM", f"{BASE} AS base"))
    base = [arguments for name, arguments in instructions[first : first + 2] if name == "ENV"]
    return dict(part.split("=", 1) for env in base + last_stage["ENV"] for part in shlex.split(env))


@pytest.fixture(params=["cpu", "gpu"])
def profile(request):
    """The service that a profile of the compose file starts."""
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    (service,) = [s for s in services if request.param in s["profiles"]]
    return service


def test_image_runs_as_a_numeric_user_that_is_not_root(last_stage):
    # Kubernetes' runAsNonRoot needs a number; OpenShift runs any uid with group 0
    (user,) = last_stage["USER"]
    assert re.fullmatch(r"[1-9]\d*:0", user)


def test_health_check_of_the_image(instructions, last_stage):
    (check,) = last_stage["HEALTHCHECK"]
    assert check.endswith('CMD ["python", "/opt/rope/health_check.py"]')
    assert ("COPY", "deploy/health_check.py /opt/rope/") in instructions


def test_entrypoint_receives_signals_and_flags(last_stage):
    assert last_stage["ENTRYPOINT"] == ['["rope-service"]']
    assert last_stage["CMD"] == ['["serve"]']  # flags alone mean serve as well


def test_exposed_ports_are_the_default_ones(last_stage, variables):
    ports = [str(Settings.model_fields[name].default) for name in ("http_port", "grpc_port")]
    assert last_stage["EXPOSE"] == [" ".join(ports)]
    assert [variables["ROPE_HTTP_PORT"], variables["ROPE_GRPC_PORT"]] == ports


def test_image_sets_the_allocator_like_the_service(variables):
    assert variables["GLIBC_TUNABLES"] == MALLOC


def test_image_does_not_select_gpus_and_finds_the_driver(variables):
    assert "NVIDIA_VISIBLE_DEVICES" not in variables
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert variables["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"
    assert image.DRIVER_FOLDER in variables["LD_LIBRARY_PATH"].split(":")


def test_labels_say_what_the_image_was_built_from(instructions, last_stage):
    (labels,) = (dict(part.split("=", 1) for part in shlex.split(x)) for x in last_stage["LABEL"])
    assert list(labels) == [f"org.opencontainers.image.{name}" for name in LABELS]
    variables = set(re.findall(r"\$\{(\w+)\}", " ".join(labels.values())))
    assert variables == {argument.partition("=")[0] for argument in last_stage["ARG"]}
    assert instructions[-1][0] == "LABEL", "labels of a build must not end the use of its cache"
    assert variables >= build_arguments().keys() >= {"VERSION"}


def test_labels_of_a_build_come_from_git_and_the_environment(monkeypatch):
    monkeypatch.setenv("SOURCE", "here")
    monkeypatch.setenv("BASE_DIGEST", "sha256:0")
    arguments = build_arguments()
    assert arguments["VERSION"] == __version__
    assert arguments["SOURCE"] == "here"
    assert arguments["BASE_DIGEST"] == "sha256:0"
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of Git")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", arguments["REVISION"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", arguments["CREATED"])


STAGES = ("torch", "driver", "service", "kernels", "sbom")


def test_last_stage_only_copies_from_earlier_stages(instructions, last_stage):
    assert "RUN" not in last_stage
    sources = {arguments.split()[0] for arguments in last_stage["COPY"]}
    assert sources == {f"--from={stage}" for stage in STAGES}
    copied = {path for arguments in last_stage["COPY"] for path in arguments.split()[1:]}
    assert copied == {"/opt/torch", "/opt/rope", "/opt/rope/triton", "/opt/rope/sbom.cdx.json"}


def test_kernels_are_built_with_the_environment_of_the_last_stage(instructions, last_stage):
    # variables that Triton's cache keys depend on are set in the stage that all others start from
    assert [env for env in last_stage["ENV"] if "TRITON_DISABLE_LINE_INFO" in env] == []
    bases = {arguments for name, arguments in instructions if name == "FROM"}
    assert {"base AS torch", "torch AS service", "service AS kernels"} <= bases
    assert {"torch AS compiler", "compiler AS driver", "compiler AS wheel"} <= bases
    assert "base" in bases


def test_image_uses_the_cache_manager_for_prebuilt_kernels(variables):
    pytest.importorskip("triton")
    module, name = variables["TRITON_CACHE_MANAGER"].split(":")
    assert getattr(import_module(module), name)
    assert variables["TRITON_CACHE_DIR"].startswith("/tmp/")


def test_image_needs_no_home_folder(variables):
    for name in ("HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert variables[name].startswith("/tmp")  # the only writable folder
    assert variables["USER"]


def test_mirrors_are_arguments_without_a_default(instructions):
    arguments = [argument for name, argument in instructions if name == "ARG"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST"):
        assert name in arguments


HAPROXY = [f"deploy/haproxy/{name}" for name in ("haproxy.cfg", "compose.yaml", "gpu.yaml")]


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "deploy/compose.yaml", *HAPROXY])
def test_no_registry_host_and_no_latest_tag(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert ":latest" not in text
    assert not re.search(r"\b[\w-]+\.(com|io|org|dev)/", text)


def test_base_images_are_stages_or_the_argument(instructions):
    stages = {arguments.split(" AS ")[-1] for name, arguments in instructions if name == "FROM"}
    for name, arguments in instructions:
        if name == "FROM":
            assert arguments.split()[0] in stages | {BASE}
    assert ("ARG", "BASE=python:${PYTHON_VERSION}-slim-bookworm") in instructions
    assert instructions.index(("ARG", "BASE_DIGEST")) < instructions.index(
        ("FROM", f"{BASE} AS needs-buildkit")
    )


def test_dockerfile_needs_no_new_builder_features():
    assert not DOCKERFILE.startswith("# syntax")
    assert "<<" not in DOCKERFILE
    assert "--link" not in DOCKERFILE


def test_the_legacy_builder_stops_at_the_first_stage_and_buildkit_skips_it(instructions):
    first = next(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    (_, stage), (run, command) = instructions[first : first + 2]
    assert (stage, run) == (f"{BASE} AS needs-buildkit", "RUN")
    assert "DOCKER_BUILDKIT=1 docker build" in command
    assert command.endswith("exit 1")
    assert not [each for each in instructions[first + 1 :] if "needs-buildkit" in each[1]]


def test_compose_restricts_the_container(profile):
    assert profile["read_only"] is True
    assert [mount.split(":")[0] for mount in profile["tmpfs"]] == ["/tmp"]
    assert profile["cap_drop"] == ["ALL"]
    assert profile["security_opt"] == ["no-new-privileges:true"]
    assert profile["pids_limit"] >= 4 * 128 + 64  # threads on a machine of 128 CPUs
    assert profile["mem_limit"]
    assert profile["ports"] == [
        "${BIND:-127.0.0.1}:${PORT:-8000}:8000",
        "${BIND:-127.0.0.1}:${GRPC_PORT:-8001}:8001",
    ]
    assert not {"privileged", "user", "cap_add", "network_mode"} & profile.keys()


def test_compose_waits_longer_than_a_drain(profile):
    drain_s = sum(Settings.model_fields[name].default for name in ("drain_delay_s", "drain_s"))
    assert int(profile["stop_grace_period"].removesuffix("s")) > drain_s


def test_compose_leaves_the_health_check_to_the_image(profile):
    assert not {"test", "disable"} & profile["healthcheck"].keys()


def test_only_the_gpu_profile_reserves_a_gpu(profile):
    reserved = profile["environment"]["ROPE_DEVICE"] == "cuda"
    assert reserved == ("deploy" in profile)
    if reserved:
        (device,) = profile["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert device["count"] == 1


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/compose.yaml", "docs/deploy.md"])
def test_settings_in_the_files_exist(name):
    names = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", (ROOT / name).read_text()))
    assert names
    assert names <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_image_test_is_skipped_without_docker(monkeypatch, capsys):
    monkeypatch.setattr(image, "DOCKER", "no-such-docker")
    image.main()
    assert "SKIPPED" in capsys.readouterr().out


def test_image_test_is_skipped_if_docker_fails(monkeypatch, capsys):
    monkeypatch.setattr(image, "DOCKER", sys.executable)  # has no command `version`
    image.main()
    assert "SKIPPED" in capsys.readouterr().out


def test_compose_restarts_after_a_device_failure_and_exit_codes_are_documented(profile):
    assert profile["restart"] == "unless-stopped"
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "(settings.md#exit-codes)" in page
    for code in EXIT_CODES.values():
        assert re.search(rf"\b{code}\b", page)
