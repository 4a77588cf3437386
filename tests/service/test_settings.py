"""Settings: environment, flags, and clear words for what is wrong."""

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings, parse_shapes
from tests.conftest import ROOT


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)} | variables
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_defaults_environment_and_flags_in_that_order():
    shown = json.loads(run("--print-config").stdout)
    assert (shown["http_host"], shown["http_port"], shown["device"]) == ("127.0.0.1", 8000, "auto")
    shown = json.loads(run("serve", "--print-config", ROPE_HTTP_PORT="9000").stdout)
    assert shown["http_port"] == 9000
    shown = json.loads(
        run("serve", "--http-port", "9001", "--print-config", ROPE_HTTP_PORT="9000").stdout
    )
    assert shown["http_port"] == 9001


def test_every_setting_is_a_flag_with_its_description():
    text = run("serve", "--help").stdout
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
        assert field.description.split()[0] in text


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({"ROPE_HTTP_PROT": "1"}, (), "unknown variable ROPE_HTTP_PROT"),
        ({"ROPE_HTTP_PORT": "tcp://10.0.0.1:8000"}, (), "enableServiceLinks"),
        ({"ROPE_GRPC_PORT": "tcp://10.0.0.1:8001"}, (), "enableServiceLinks"),
        ({"ROPE_GRPC_PORT": "-1"}, (), "grpc_port"),
        ({"ROPE_TLS_CERT_FILE": "a.crt"}, (), "ROPE_TLS_KEY_FILE is missing: TLS needs"),
        ({}, ("--tls-client-ca-file", "ca.pem"), "ROPE_TLS_CERT_FILE is missing: TLS needs"),
        ({"ROPE_PORT": "tcp://10.0.0.1:8000"}, (), "enableServiceLinks"),
        ({"ROPE_PORT_8000_TCP_PROTO": "tcp"}, (), "enableServiceLinks"),
        ({"ROPE_SOME_PORT": "8001"}, (), "unknown variable"),
        ({"rope_http_prot": "1"}, (), "unknown variable ROPE_HTTP_PROT"),
        ({}, ("--drain-s", "inf"), "drain_s"),
        ({"ROPE_SERVICE_HOST": "10.0.0.1"}, (), "enableServiceLinks"),
        ({"ROPE_HTTP_PORT": "70000"}, (), "http_port"),
        ({"ROPE_DEVICE": "tpu"}, (), "device"),
        ({"ROPE_BACKEND": "math"}, (), "backend"),
        ({"ROPE_ALLOW_BACKEND": "sdpa"}, (), "allow_backend"),
        ({}, ("--max-body-bytes", "0"), "max_body_bytes"),
        ({"ROPE_WARM_UP_SHAPES": "32x8"}, (), "heads x kv_heads x head_dim"),
        ({"ROPE_WARM_UP_SHAPES": "32x8x128,32x5x128"}, (), "32x5x128: kv_heads must divide heads"),
        ({"ROPE_WARM_UP_SHAPES": "4x0x64"}, (), "kv_heads must divide heads"),
        ({"ROPE_WARM_UP_SHAPES": "1" * 5000 + "x1x2"}, (), "warm_up_shapes"),
        ({"ROPE_SHARED_MEMORY_PREFIX": ""}, (), "shared_memory_prefix"),
        ({"ROPE_SHARED_MEMORY_PREFIX": "/"}, (), "shared_memory_prefix"),
        ({"ROPE_SHARED_MEMORY_PREFIX": "a/../b"}, (), "shared_memory_prefix"),
        ({}, ("--device-stuck-s", "0"), "device_stuck_s"),
        ({}, ("--no-such-flag", "1"), "no-such-flag"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_clear_message(variables, arguments, says):
    ended = run("serve", *arguments, **variables)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().http_port = 1


def test_a_gpu_that_is_not_there_stops_the_start():
    ended = run("serve", "--device", "cuda", "--http-port", "0")
    assert ended.returncode != 0
    assert "torch finds no GPU" in ended.stderr


def test_shapes_are_read_as_they_are_listed():
    assert parse_shapes("32x8x128, 16x16x64") == [(32, 8, 128), (16, 16, 64)]
    assert parse_shapes("") == []
