"""The commands as a whole: arguments, exit codes, help, and what is not imported."""

import os
import signal
import subprocess
import sys

import pytest

from service import __main__
from service.cli.app import run
from service.command_line import TOOLS
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("inspect",), "Missing argument 'CONFIG'; see rope-service inspect --help"),
        (("inspect", "--foo", "x"), "No such option: --foo; see rope-service inspect --help"),
        (("inspect", "x", "--layer", "a"), "Invalid value for '--layer'"),
        (("diagnose", "x.safetensors"), "Missing option '--rope'"),
        (("inspect", "lama-3.1-8b"), "must be the name of a preset"),
        (("inspect", "no/config.json"), "cannot read no/config.json: No such file or directory"),
        (("inspect", "{"), "the rope is not valid JSON"),
        (("inspect", "[1]"), "must be the name of a preset"),
        (("inspect", '{"theta": 5e5}'), "head_dim must be given"),
        (("inspect", '{"theta": 5e5, "head_dim": 64}', "--layer", "3"), "layer"),
        (("inspect", "llama-3.1-8b", "--layer", "99"), "rope.layer must be"),
        (("inspect", "llama-3.1-8b", "--compat", "5"), "rope.compat must be"),
        (
            ("inspect", "llama-3.1-8b", "--url", "x"),
            "--url must be an address that begins with http://",
        ),
        (("inspect", "llama-3.1-8b", "--url", "http://127.0.0.1:9"), "cannot reach the service"),
        (("variants", "yarm"), "no variant is named yarm; did you mean yarn?"),
        (("variants", "[x]"), "no variant is named [x]; see rope-service variants"),
        (("inspect", "\udcff"), "must be the name of a preset"),
        (("inspect", "/dev/null"), "/dev/null is not valid JSON"),
        (("inspect", "/proc/self/mem"), "cannot read /proc/self/mem"),
        (("rotate", "x", "y", "--rope", "z", "--shift", "9" * 20), "Invalid value for '--shift'"),
    ],
)
def test_a_wrong_input_gets_one_sentence_and_exit_code_2(cli, arguments, text):
    ended = cli(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("rope-service: ")
    assert ended.err.count("\n") == 1
    assert text in ended.err


@pytest.mark.parametrize("command", TOOLS)
def test_each_command_has_a_help_and_a_line_in_the_help_of_all(monkeypatch, capsys, cli, command):
    shown = cli(command, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: rope-service {command} ")
    monkeypatch.setattr("sys.argv", ["rope-service", "--help"])
    __main__.main()
    assert f"  rope-service {command} " in capsys.readouterr().out


SCRIPT = """
import contextlib, io, sys
from service.__main__ import main
for arguments in {commands}:
    sys.argv = ["rope-service", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    assert out.getvalue(), arguments
print(*sorted({unwanted} & sys.modules.keys()))
"""


def test_help_and_presets_import_neither_torch_nor_pydantic():
    helps = [[command, "--help"] for command in TOOLS]
    commands = [["--help"], ["--version"], *helps, ["presets"], ["presets", "--json"]]
    script = SCRIPT.format(
        commands=commands, unwanted={"torch", "rope_core", "fastapi", "pydantic"}
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("\n", "")


def test_the_shell_completes_names_of_presets(monkeypatch, capsys):
    monkeypatch.setenv("_ROPE_SERVICE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rope-service inspect llama-3.1")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setattr("sys.argv", ["rope-service"])
    with pytest.raises(SystemExit):
        __main__.main()
    names = capsys.readouterr().out.split()
    assert names == ["llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b"]


@pytest.mark.parametrize(
    "arguments", [["inspect", "llama-3.1-8b"], ["inspect", "llama-3.1-8b", "--csv"]]
)
def test_a_pipe_that_nobody_reads_is_no_difference(monkeypatch, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run(arguments) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("arguments", [["presets"], ["presets", "--json"], ["presets", "--help"]])
def test_output_that_cannot_be_written_gets_a_sentence(monkeypatch, capsys, arguments):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended:
            run(arguments)
    text = "rope-service: cannot write to standard output: No space left on device\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, text)


def test_an_interrupt_has_no_traceback(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("service.cli.app.run", interrupt)
    monkeypatch.setattr("sys.argv", ["rope-service", "presets"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert (ended.value.code, capsys.readouterr().err) == (128 + signal.SIGINT, "")


def test_a_command_without_standard_streams_has_its_exit_code():
    script = f"exec {sys.executable} -m service {{}} <&- >&- 2>&-"
    for arguments, code in (("presets", 0), ("presets no-such-model", 1), ("presets --no-such", 2)):
        ended = subprocess.run(["sh", "-c", script.format(arguments)], cwd=ROOT, check=False)
        assert ended.returncode == code
