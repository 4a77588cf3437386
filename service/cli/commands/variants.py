"""`rope-service variants`: the variants of the frequencies, and the schemes of several axes."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from service.cli.errors import InputError
from service.cli.http_client import HttpClient
from service.cli.output import console, new_table, value_text
from service.endpoints.catalog import list_variants
from service.errors import printable

KINDS = {"variants": "rope_type", "schemes": "axes"}
"""Members of the answer of `/v1/variants` that are shown, and the parameter that names them."""


def list_all(url: str | None) -> str:
    """Return what `GET /v1/variants` answers."""
    if url is not None:
        with HttpClient(url) as client:
            return client.get("/v1/variants").decode()
    return json.dumps(list_variants(), ensure_ascii=False, separators=(",", ":"))


def print_variants(catalogue: Mapping[str, Any]) -> None:
    """Print a line for each variant and each scheme."""
    headings = ("name", "parameters", "summary")
    for kind, parameter in KINDS.items():
        table = new_table(parameter, *headings[1:], left=(parameter, *headings))
        for entry in catalogue[kind]:
            names = ", ".join(each["name"] for each in entry["parameters"])
            table.add_row(entry["name"], names, entry["summary"])
        console().print(table)
        console().print()


def print_variant(catalogue: Mapping[str, Any], name: str) -> None:
    """Print everything about a variant or a scheme.

    Raises:
        InputError: there is none of this name.
    """
    entries = {entry["name"]: entry for kind in KINDS for entry in catalogue[kind]}
    entry = entries.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"no variant is named {printable(name)}{hint} See rope-service variants")
    out = console()
    out.print(Text.assemble((entry["name"], "bold"), "  ", entry["summary"]))
    out.print(f"models: {entry['models']}")
    out.print(f"source: {entry['source']}", style="label")
    if not entry["parameters"]:
        return
    headings = ("parameter", "type", "default")
    table = new_table(*headings, left=headings)
    for each in entry["parameters"]:
        default = "required" if each["required"] else value_text(each["default"])
        table.add_row(each["name"], each["type"], default)
    out.print()
    out.print(table)
