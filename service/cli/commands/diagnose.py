"""`rope-service diagnose`: which mistake explains numbers that differ from those of a config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import torch
from rich.text import Text
from torch import Tensor

from service.cli.errors import InputError
from service.cli.highlight import highlight
from service.cli.output import console, new_table, number_text, value_text
from service.cli.tensor_files import read_tensor_file, read_tensors
from service.endpoints.table import ENDPOINTS
from service.errors import printable
from service.wire import Message

PATH = "/v1/diagnose"

POSITIONS = re.compile(r"-?\d{1,16}(:-?\d{1,16})?(,-?\d{1,16}(:-?\d{1,16})?)*")
"""Positions as text: `0,1,7`, or `0:2048` for all from 0 to 2,047."""

MAX_POSITIONS = 2**24
"""Most positions that a text may name."""


def read_evidence(observed: str | None, files: Mapping[str, str | None]) -> dict[str, Tensor]:
    """Read the tensors of a request.

    Args:
        observed: a file whose tensors have the names of the request's; others are left out.
        files: by the name of a tensor: `file`, `file:tensor`, or positions as text.

    Raises:
        InputError: a file cannot be read, or has none of the tensors.
    """
    names = next(endpoint.names for endpoint in ENDPOINTS if endpoint.path == PATH)
    tensors: dict[str, Tensor] = {}
    if observed is not None:
        found = read_tensors(observed)
        tensors = {name: tensor for name, tensor in found.items() if name in names}
        if not tensors:
            shown = ", ".join(map(printable, sorted(found)[:16])) or "none"
            expected = f"tensors named {', '.join(sorted(names))}"
            hint = "name them by options: --before FILE:NAME"
            raise InputError(f"{observed} must have {expected}, got {shown}; {hint}")
    for name, source in files.items():
        if source is None:
            continue
        if name == "positions" and POSITIONS.fullmatch(source):
            tensors[name] = _positions(source)
        else:
            tensors[name] = read_tensor_file(source, name)
    return tensors


def read_params(settings: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that `--set name=value` gives; a value is JSON, or a text.

    Raises:
        InputError: a setting has no `=`.
    """
    params: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name in ("", "rope"):
            shown = printable(setting)
            raise InputError(f"--set must be NAME=VALUE, such as window=4096, got {shown}")
        try:
            params[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            params[name] = text
    return params


def print_diagnosis(answer: Message) -> None:
    """Print the verdict, the explanations from the best to the worst, and what was measured."""
    out, values = console(), answer.params.values
    out.print(_verdict(values))
    for number, explanation in enumerate(values["explanations"], 1):
        _print_explanation(number, explanation)
    if measured := values.get("measured"):
        known = {name: value for name, value in measured.items() if value not in (None, [], ())}
        out.print()
        table = new_table("measured", "value", left=("measured", "value"))
        for name, value in known.items():
            table.add_row(name, value_text(value))
        out.print(table)
    if probe := values.get("next_probe"):
        out.print()
        out.print(Text.assemble(("next: ", "bold"), probe))
    for warning in values.get("warnings", ()):
        out.print(Text.assemble(("warning: ", "bad"), warning))


def _verdict(values: Mapping[str, Any]) -> Text:
    verdict, error = values["verdict"], values["error"]
    style = "good" if verdict == "agrees" else "bad"
    text = Text.assemble((verdict, style), "  ")
    relative, tolerance = error["relative"], number_text(error["tolerance"])
    if relative is None:
        return text.append(f"no relative error can be told (tolerance {tolerance})")
    figures = f"relative error {number_text(relative)}, tolerance {tolerance}"
    if error["first_position"] is not None:
        figures += f"; differs from position {number_text(error['first_position'])} on"
    text.append_text(highlight(figures))
    if verdict != "agrees" and (worst := error["worst"]):
        index = ", ".join(map(str, worst["index"]))
        numbers = f"expected {number_text(worst['expected'])}, got {number_text(worst['got'])}"
        text.append_text(highlight(f"\nworst at [{index}]: {numbers}"))
    return text


def _print_explanation(number: int, explanation: Mapping[str, Any]) -> None:
    out = console()
    codes = " and ".join(mistake["code"] for mistake in explanation["mistakes"])
    residual = f"relative error {number_text(explanation['relative_error'])}"
    out.print()
    out.print(Text.assemble(f"{number}. ", (codes, "bold"), "  ", (residual, "label")))
    for mistake in explanation["mistakes"]:
        parameters = ", ".join(
            f"{name} {value_text(value)}" for name, value in mistake["parameters"].items()
        )
        shown = f"{mistake['text']}  ({parameters})" if parameters else mistake["text"]
        out.print(highlight(f"   {shown}"))
    out.print(Text.assemble(("   remedy: ", "label"), explanation["remedy"]))
    if explanation["rope"] is not None:
        rope = orjson.dumps(explanation["rope"], default=dict).decode()
        out.print(f"   rope: {rope}", style="label")


def _positions(text: str) -> Tensor:
    """Return the positions of a text such as `0,1,7` or `0:2048`."""
    parts = []
    total = 0
    for part in text.split(","):
        first, colon, last = part.partition(":")
        start, stop = int(first), int(last) if colon else int(first) + 1
        total += max(0, stop - start)
        if total > MAX_POSITIONS:
            raise InputError(f"--positions must be at most {MAX_POSITIONS:,}, got more")
        parts.append(torch.arange(start, max(start, stop)))
    return torch.cat(parts)
