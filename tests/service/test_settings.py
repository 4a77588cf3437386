"""Settings: environment, flags, and clear words for what is wrong."""

import json
import os
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from service import __main__, __version__
from service.exit_codes import EXIT_CODES, START_FAILED, WRONG_SETTING
from service.read_settings import read_settings
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
        assert PREFIX + name.upper() in text
        assert field.description
        assert field.description.split()[0] in text


LINK = {"ROPE_PORT": "tcp://10.0.0.1:8000"}


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({"ROPE_HTTP_PROT": "1"}, (), "unknown variable ROPE_HTTP_PROT; did you mean ROPE_HTTP_PO"),
        ({"ROPE_PORT": "9000"}, (), "unknown variable ROPE_PORT; did you mean ROPE_HTTP_PORT?"),
        ({"ROPE_HOST": "::1"}, (), "unknown variable ROPE_HOST; did you mean ROPE_HTTP_HOST?"),
        ({"ROPE_TLS_CERT": "a"}, (), "unknown variable ROPE_TLS_CERT; did you mean ROPE_TLS_CERT_"),
        ({"ROPE_NOTHING_LIKE_IT": "a"}, (), "did you mean ROPE_"),
        ({"ROPE_SOME_PORT": "8001"}, (), "unknown variable"),
        ({"rope_http_prot": "1"}, (), "unknown variable ROPE_HTTP_PROT"),
        ({"ROPE_HTTP_PORT": "tcp://10.0.0.1:8000"}, (), "enableServiceLinks"),
        ({"ROPE_GRPC_PORT": "tcp://10.0.0.1:8001"}, (), "enableServiceLinks"),
        (LINK, (), "ROPE_PORT=tcp://10.0.0.1:8000 looks like a link that Kubernetes sets"),
        (LINK | {"ROPE_PORT_8000_TCP_PROTO": "tcp"}, (), "enableServiceLinks"),
        (LINK | {"ROPE_SERVICE_HOST": "10.0.0.1"}, (), "enableServiceLinks"),
        ({"ROPE_TLS_CERT_FILE": "a.crt"}, (), "ROPE_TLS_KEY_FILE is missing: TLS needs"),
        ({}, ("--tls-client-ca-file", "ca.pem"), "ROPE_TLS_CERT_FILE is missing: TLS needs"),
        ({"ROPE_GRPC_PORT": "8000"}, (), "ROPE_HTTP_PORT and ROPE_GRPC_PORT are both 8000"),
        ({}, ("--drain-s", "inf"), "--drain-s must be a number of at least 0 and at most 1,000"),
        (
            {"ROPE_GRPC_PORT": "-1"},
            (),
            "ROPE_GRPC_PORT must be a whole number of at least 0 and at most 65,535, got '-1'",
        ),
        ({"ROPE_HTTP_PORT": "70000"}, (), "ROPE_HTTP_PORT must be a whole number of at least 0 an"),
        ({}, ("--http-port=abc",), "--http-port must be a whole number of at least 0 and at most"),
        ({"ROPE_DEVICE": "tpu"}, (), "ROPE_DEVICE must be one of auto, cpu, cuda, got 'tpu'"),
        ({"ROPE_BACKEND": "math"}, (), "ROPE_BACKEND must be one of auto, eager, sdpa, fused, var"),
        ({"ROPE_ALLOW_BACKEND": "sdpa"}, (), "ROPE_ALLOW_BACKEND must be true or false, got 'sdpa"),
        ({}, ("--max-body-bytes", "0"), "--max-body-bytes must be a whole number above 0, got '0'"),
        (
            {"ROPE_SESSION_KEY": "too short"},
            (),
            "ROPE_SESSION_KEY must be text of at least 16 characters, got another text",
        ),
        ({"ROPE_THREADS": "two"}, (), "ROPE_THREADS must be a whole number above 0, got 'two'"),
        ({"ROPE_ALLOWED_HOSTS": "a:1"}, (), "ROPE_ALLOWED_HOSTS must be names or addresses"),
        ({"ROPE_WARM_UP_SHAPES": "32x8"}, (), "ROPE_WARM_UP_SHAPES must be a list of heads x kv_h"),
        ({"ROPE_WARM_UP_SHAPES": "32x8x128,32x5x128"}, (), "32x5x128: kv_heads must divide heads"),
        ({"ROPE_WARM_UP_SHAPES": "4x0x64"}, (), "kv_heads must divide heads"),
        ({"ROPE_WARM_UP_SHAPES": "1" * 5000 + "x1x2"}, (), f"got '{'1' * 61}...'"),
        ({"ROPE_SHARED_MEMORY_PREFIX": ""}, (), "ROPE_SHARED_MEMORY_PREFIX must be 1 to 200 lett"),
        ({"ROPE_SHARED_MEMORY_PREFIX": "/"}, (), "ROPE_SHARED_MEMORY_PREFIX must be 1 to 200 let"),
        ({"ROPE_SHARED_MEMORY_PREFIX": "a/../b"}, (), "ROPE_SHARED_MEMORY_PREFIX must be 1 to 20"),
        ({"ROPE_LOG_LEVEL": "a\x1bb"}, (), "error, got 'a?b'"),
        (
            {},
            ("--device-stuck-s", "0"),
            "--device-stuck-s must be a number above 0 and at most 1,0",
        ),
        ({}, ("--no-such-flag", "1"), "unknown flag --no-such-flag; did you mean --"),
        ({}, ("--http-prot=1",), "unknown flag --http-prot; did you mean --http-port?"),
        ({}, ("--http-port",), "argument --http-port: expected one argument"),
        ({}, ("now",), "unexpected argument now"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    monkeypatch, capsys, variables, arguments, says
):
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        read_settings([*arguments])
    assert ended.value.code == WRONG_SETTING == 2
    printed = capsys.readouterr().err
    assert printed.startswith("rope-service: ")
    assert printed.count("\n") == 1
    assert says in printed


def test_each_wrong_value_has_a_line():
    ended = run("serve", "--http-port", "x", ROPE_DEVICE="tpu")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"rope-service: {line}"
        for line in (
            "--http-port must be a whole number of at least 0 and at most 65,535, got 'x'",
            "ROPE_DEVICE must be one of auto, cpu, cuda, got 'tpu'",
        )
    ]


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",)])
def test_the_help_names_the_commands_and_all_exit_codes(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["rope-service", *arguments])
    __main__.main()
    text = capsys.readouterr().out
    assert all(f"  {code}  {meaning}\n" in text for code, meaning in EXIT_CODES.items())
    assert all(f"rope-service {command} " in text for command in ("serve", "new-key", "--version"))
    page = (ROOT / "docs" / "settings.md").read_text()
    assert all(f"| {code} | {meaning} |" in page for code, meaning in EXIT_CODES.items())


@pytest.mark.parametrize("arguments", [("--version",), ("version",)])
def test_the_version_is_printed(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["rope-service", *arguments])
    __main__.main()
    assert capsys.readouterr().out == f"rope-service {__version__}\n"


def test_an_unknown_command_proposes_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rope-service", "serv"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    said = "rope-service: unknown command serv; did you mean serve? See rope-service --help\n"
    assert capsys.readouterr().err == said


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().http_port = 1


def test_a_gpu_that_is_not_there_stops_the_start():
    ended = run("serve", "--device", "cuda", "--http-port", "0")
    assert ended.returncode == START_FAILED == 1
    assert ended.stderr.startswith("rope-service: ROPE_DEVICE is cuda, but torch finds no GPU: ")
    assert ended.stderr.count("\n") == 1
    for part in (f"torch {torch.__version__} was built", "NVIDIA driver", "--gpus all"):
        assert part in ended.stderr
    assert "ROPE_DEVICE=auto serves on the CPU" in ended.stderr


def test_shapes_are_read_as_they_are_listed():
    assert parse_shapes("32x8x128, 16x16x64") == [(32, 8, 128), (16, 16, 64)]
    assert parse_shapes("") == []
