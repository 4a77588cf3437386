"""What Dockerfile and compose file promise, as far as they can be held to it without an engine."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from service.__main__ import MALLOC
from service.lifecycle import EXIT_CODES
from service.settings import PREFIX, Settings
from tests.deploy import image

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = ROOT / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def instructions():
    """Return (instruction, arguments) of each step."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    steps = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [tuple(step.split(maxsplit=1)) for step in steps]


@pytest.fixture(scope="module")
def final(instructions):
    """Return what the last stage says, by instruction."""
    last = max(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    said = {}
    for name, arguments in instructions[last + 1 :]:
        said.setdefault(name, []).append(arguments)
    return said


@pytest.fixture(scope="module")
def variables(instructions, final):
    """Return the environment of the last stage, with that of the stage it begins from."""
    first = instructions.index(("FROM", "${BASE} AS base"))
    base = [arguments for name, arguments in instructions[first : first + 2] if name == "ENV"]
    return dict(part.split("=", 1) for env in base + final["ENV"] for part in shlex.split(env))


@pytest.fixture(params=["cpu", "gpu"])
def profile(request):
    """Return the one service that a profile of the compose file starts."""
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    (service,) = [s for s in services if request.param in s["profiles"]]
    return service


def test_image_runs_as_a_numbered_user_that_is_not_root(final):
    # Kubernetes' runAsNonRoot cannot judge a name; group 0 is what OpenShift gives any uid
    (user,) = final["USER"]
    assert re.fullmatch(r"[1-9]\d*:0", user)


def test_image_has_a_health_check_that_asks_for_readiness(final):
    (check,) = final["HEALTHCHECK"]
    assert "/readyz" in check
    assert "ROPE_HTTP_PORT" in check


def test_entrypoint_takes_signals_and_flags(final):
    assert final["ENTRYPOINT"] == ['["rope-service", "serve"]']
    assert "CMD" not in final


def test_exposed_ports_are_the_default_ones(final, variables):
    ports = [str(Settings.model_fields[name].default) for name in ("http_port", "grpc_port")]
    assert final["EXPOSE"] == [" ".join(ports)]
    assert [variables["ROPE_HTTP_PORT"], variables["ROPE_GRPC_PORT"]] == ports


def test_image_sets_the_allocator_as_the_service_would(variables):
    assert variables["GLIBC_TUNABLES"] == MALLOC


def test_image_leaves_the_choice_of_gpus_to_the_runtime_and_finds_the_driver(variables):
    assert "NVIDIA_VISIBLE_DEVICES" not in variables
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert variables["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"
    assert image.DRIVER_FOLDER in variables["LD_LIBRARY_PATH"].split(":")


def test_final_stage_has_no_compiler_and_no_package_manager_runs_in_it(instructions, final):
    assert "RUN" not in final
    origins = {arguments.split()[0] for arguments in final["COPY"]}
    assert origins == {f"--from={stage}" for stage in ("torch", "driver", "service", "kernels")}
    copied = {path for arguments in final["COPY"] for path in arguments.split()[1:]}
    assert copied == {"/opt/torch", "/opt/rope", "/opt/rope/triton"}


def test_kernels_are_built_under_the_keys_of_the_final_stage(instructions, final):
    # variables that Triton's keys depend on are set in the stage that all others begin from
    assert [env for env in final["ENV"] if "TRITON_DISABLE_LINE_INFO" in env] == []
    bases = {arguments for name, arguments in instructions if name == "FROM"}
    assert {"base AS torch", "torch AS driver", "torch AS service", "service AS kernels"} <= bases
    assert "base" in bases


def test_image_uses_the_cache_that_finds_prebuilt_kernels(variables):
    pytest.importorskip("triton")
    module, name = variables["TRITON_CACHE_MANAGER"].split(":")
    assert getattr(import_module(module), name)
    assert variables["TRITON_CACHE_DIR"].startswith("/tmp/")


def test_image_needs_no_home(variables):
    for name in ("HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert variables[name].startswith("/tmp")  # the only place that can be written to
    assert variables["USER"]


def test_mirrors_are_arguments_without_a_default(instructions):
    arguments = [given for name, given in instructions if name == "ARG"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST"):
        assert name in arguments


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "deploy/compose.yaml"])
def test_no_host_of_a_registry_and_no_tag_that_moves(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert ":latest" not in text
    assert not re.search(r"\b[\w-]+\.(com|io|org|dev)/", text)


def test_bases_are_stages_or_the_argument(instructions):
    stages = {given.split(" AS ")[-1] for name, given in instructions if name == "FROM"}
    for name, given in instructions:
        if name == "FROM":
            assert given.split()[0] in stages | {"${BASE}"}
    assert ("ARG", "BASE=python:${PYTHON_VERSION}-slim-bookworm") in instructions


def test_builder_of_old_engines_understands_it():
    assert not DOCKERFILE.startswith("# syntax")
    assert "<<" not in DOCKERFILE
    assert "--link" not in DOCKERFILE


def test_compose_locks_the_container_down(profile):
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


def test_compose_waits_longer_than_a_drain_takes(profile):
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
def test_settings_named_are_settings(name):
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", (ROOT / name).read_text()))
    assert named
    assert named <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_image_test_says_so_where_no_engine_is(monkeypatch, capsys):
    monkeypatch.setattr(image, "DOCKER", "no-such-docker")
    image.main()
    assert "SKIPPED" in capsys.readouterr().out


def test_image_test_says_so_where_no_engine_answers(monkeypatch, capsys):
    monkeypatch.setattr(image, "DOCKER", sys.executable)  # which knows no `version`
    image.main()
    assert "SKIPPED" in capsys.readouterr().out


def test_a_failed_device_is_started_anew_and_its_codes_are_documented(profile):
    assert profile["restart"] == "unless-stopped"
    page = (ROOT / "docs" / "deploy.md").read_text()
    for code in EXIT_CODES.values():
        assert f"| {code} |" in page
