"""The commands of the command line other than `serve`.

A command imports what it needs when it runs: `--help` and `presets` import no torch.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer

from service.cli import options
from service.cli.errors import InputError
from service.cli.pipe import PipeClosed, write
from service.cli.progress import working
from service.command_line import fail

SAME, DIFFERENT = 0, 1
"""Exit codes, as those of `diff`. A wrong input has 2."""

DEFAULT_URL = "http://127.0.0.1:8000"

BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit code if the reader of a pipe, such as `head`, has ended: that of a shell."""

USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
"""Base class of wrong arguments, which typer does not export."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_enable=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return the exit code.

    Raises:
        SystemExit: an argument or an input is wrong; the code is 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # its encoding may lack some characters
    try:
        code = app(arguments, prog_name="rope-service", standalone_mode=False)
    except USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "rope-service"
        fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    except InputError as error:
        fail(str(error))
    except (PipeClosed, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:  # of standard output: commands handle those of files
        _discard_output()
        fail(f"{error.filename or 'cannot write to standard output'}: {error.strerror or error}")
    return code or SAME


def _discard_output() -> None:
    """Let the end of the process write what is left of the output to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def inspect(
    config: options.Config,
    layer: options.Layer = None,
    layer_type: options.LayerType = None,
    part: options.Part = None,
    length: options.Length = None,
    compat: options.Compat = None,
    against: options.Against = None,
    show_all: options.ShowAll = False,
    as_json: options.AsJson = False,
    as_csv: options.AsCsv = False,
    figure: options.Figure = None,
    url: options.Url = None,
) -> int:
    """Show what a config does to each pair of a head, and where each value comes from."""
    if against is not None and (as_json or as_csv):
        fail("--against cannot be combined with --json or --csv; see rope-service compare")
    with working("reading the config"):
        from service.cli import rope_argument, service_calls
        from service.cli.commands import compare as comparing
        from service.cli.commands import inspect as inspecting

        chosen: dict[str, Any] = {"layer": layer, "layer_type": layer_type, "part": part}
        chosen |= {"length": length, "compat": compat}
        argument = rope_argument.read_rope(config)
        with service_calls.open_caller(url) as caller:
            if as_json:
                answer = inspecting.answer_json(caller, argument, chosen)
            else:
                kinds = inspecting.layer_kinds(caller, argument, chosen)
            if against is not None:
                other = rope_argument.read_rope(against)
                comparison = comparing.compare(caller, argument, other, chosen)
    if as_json:
        write(answer)
    elif as_csv:
        inspecting.write_csv(kinds)
    else:
        inspecting.print_inspection(argument.title, kinds, show_all=show_all)
    if against is not None:
        write("\n")
        comparing.print_comparison(comparison, argument.title, other.title)
    if figure is not None:
        from service.cli import figures

        figures.write_wavelengths(argument, chosen, figure)
    return SAME


@app.command()
def compare(
    config: options.Config,
    other: options.Other,
    layer: options.Layer = None,
    layer_type: options.LayerType = None,
    part: options.Part = None,
    as_json: options.AsJson = False,
    figure: options.Figure = None,
    url: options.Url = None,
) -> int:
    """Show where two configs differ. Exit code 0: they are the same, 1: they differ."""
    with working("comparing"):
        from service.cli import rope_argument, service_calls
        from service.cli.commands import compare as command

        chosen: dict[str, Any] = {"layer": layer, "layer_type": layer_type, "part": part}
        ropes = rope_argument.read_rope(config), rope_argument.read_rope(other)
        with service_calls.open_caller(url) as caller:
            answer = command.compare(caller, *ropes, chosen)
    if as_json:
        write(service_calls.json_text(answer))
    else:
        command.print_comparison(answer, *(rope.title for rope in ropes))
    if figure is not None:
        from service.cli import figures

        figures.write_comparison(*ropes, chosen, figure)
    return SAME if answer.params.values["same"] else DIFFERENT


@app.command()
def diagnose(
    rope: options.Rope,
    observed: options.Observed = None,
    before: options.Before = None,
    after: options.After = None,
    cos: options.Cos = None,
    sin: options.Sin = None,
    inv_freq: options.InvFreq = None,
    q: options.Query = None,
    k: options.Key = None,
    v: options.Value = None,
    out: options.Out = None,
    lse: options.Lse = None,
    positions: options.Positions = None,
    layer: options.Layer = None,
    layer_type: options.LayerType = None,
    part: options.Part = None,
    length: options.Length = None,
    compat: options.Compat = None,
    max_mistakes: options.MaxMistakes = None,
    tolerance: options.Tolerance = None,
    settings: options.Set = None,
    as_json: options.AsJson = False,
    figure: options.Figure = None,
    url: options.Url = None,
) -> int:
    """Say which mistake explains numbers that differ. Exit code 0: they agree, 1: they differ."""
    files = {"before": before, "after": after, "cos": cos, "sin": sin, "inv_freq": inv_freq}
    files |= {"q": q, "k": k, "v": v, "out": out, "lse": lse, "positions": positions}
    with working("diagnosing"):
        from service.cli import rope_argument, service_calls
        from service.cli.commands import diagnose as command

        chosen: dict[str, Any] = {"layer": layer, "layer_type": layer_type, "part": part}
        chosen |= {"length": length, "compat": compat}
        argument = rope_argument.read_rope(rope)
        tensors = command.read_evidence(observed, files)
        params = command.read_params(settings or ())
        params |= {"rope": argument.with_options(chosen)}
        given = {"max_mistakes": max_mistakes, "tolerance": tolerance}
        params |= {name: value for name, value in given.items() if value is not None}
        with service_calls.open_caller(url) as caller:
            answer = caller.call(command.PATH, tensors, params)
    if as_json:
        write(service_calls.json_text(answer))
    else:
        command.print_diagnosis(answer)
    if figure is not None:
        from service.cli import figures

        figures.write_diagnosis(answer, figure)
    return SAME if answer.params.values["verdict"] == "agrees" else DIFFERENT


@app.command()
def rotate(
    source: options.Source,
    target: options.Target,
    rope: options.Rope,
    tensors: options.TensorNames = None,
    inverse: options.Inverse = False,
    shift: options.Shift = None,
    layer: options.Layer = None,
    layer_type: options.LayerType = None,
    part: options.Part = None,
    length: options.Length = None,
    compat: options.Compat = None,
    url: options.Url = None,
) -> int:
    """Rotate tensors of a safetensors file, in pieces, by its tensor `positions` or from 0 on."""
    if inverse and shift is not None:
        fail("--inverse and --shift cannot be combined: --shift -N moves keys back")
    with working("loading torch"):
        from service.cli import rope_argument, service_calls
        from service.cli.commands import rotate as command

    chosen: dict[str, Any] = {"layer": layer, "layer_type": layer_type, "part": part}
    chosen |= {"length": length, "compat": compat}
    rotation = command.Rotation(rope_argument.read_rope(rope), chosen, inverse, shift)
    with service_calls.open_caller(url) as caller:
        command.run(command.prepare(source, target, tensors or (), rotation, caller), caller)
    return SAME


@app.command()
def presets(
    word: options.Word = None, as_json: options.AsJson = False, url: options.Url = None
) -> int:
    """List the released models that have a name. Exit code 1: none has WORD in it."""
    from service.cli.commands import presets as command

    if url is None:
        text = command.list_all()
    else:
        from service.cli.http_client import HttpClient

        with HttpClient(url) as client:
            text = client.get("/v1/presets")
    if as_json and word is None:
        write(f"{text.decode()}\n")
        return SAME
    answer = json.loads(text)
    found = command.matching(answer, word or "")
    if as_json:
        write(f"{json.dumps(found)}\n")
    else:
        command.print_presets(found)
    return SAME if found["presets"] or found["refused"] else DIFFERENT


@app.command()
def variants(
    name: options.Variant = None, as_json: options.AsJson = False, url: options.Url = None
) -> int:
    """List the variants of the frequencies and the schemes of several axes, or describe one."""
    with working("reading the variants"):
        from service.cli.commands import variants as command

        text = command.list_all(url)
    if as_json:
        write(f"{text}\n")
    elif name is None:
        command.print_variants(json.loads(text))
    else:
        command.print_variant(json.loads(text), name)
    return SAME


@app.command()
def top(url: options.Address = DEFAULT_URL, as_json: options.AsJson = False) -> int:
    """Show what a service does now, and did in the last 15 minutes. A pipe gets one picture."""
    from service.cli.commands import top as command

    if as_json:
        write(f"{command.read(url).decode()}\n")
    elif sys.stdout.isatty():
        command.watch(url)
    else:
        command.print_once(command.read(url))
    return SAME


@app.command()
def bench(
    url: options.BenchAddress = None,
    work: options.Work = "rotate",
    clients: options.Clients = 4,
    seconds: options.BenchSeconds = 6.0,
    as_json: options.AsReport = False,
) -> int:
    """Measure requests a second and latency, beside an echo server in the same run."""
    with working("measuring"):
        from service.cli.commands import bench as command

        report = command.run(url, work, clients, seconds)
    if as_json:
        write(f"{json.dumps(report)}\n")
    else:
        command.print_report(report)
    return SAME


@app.command()
def doctor(as_json: options.AsReport = False) -> int:
    """Check what the service needs on this machine. Exit code 1: a check failed."""
    with working("checking"):
        from service.cli.commands import doctor as command

        checks = command.run_checks()
    if as_json:
        write(f"{command.json_report(checks)}\n")
    else:
        command.print_checks(checks)
    return SAME if all(check.ok for check in checks) else DIFFERENT
