"""Writes the generated pages of the documentation: `python docs/generate.py`."""

import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from service.endpoints.catalog import list_variants
from service.settings import PREFIX, Settings

DOCS = Path(__file__).parent

SETTINGS = """# Settings

Made from `service/settings.py` by `make docs`.

Each setting is an environment variable and a flag of `rope-service serve`; the flag wins. An
unknown `ROPE_` variable stops the start. `rope-service serve --print-config` prints what is in
force.

| variable | flag | default | |
|---|---|---|---|
"""

VARIANTS = """# Variants, schemes, builders

Made from the library by `make docs`; a running service answers the same at `/v1/variants`, with
sources and models. A parameter in parentheses is optional, with its default where that is a value.

## Variants: `rope_type`

Frequencies, and how they are scaled. Parameters go beside `rope_type` in `rope`.

| rope_type | parameters | |
|---|---|---|
"""

SCHEMES = """
## Schemes of several axes: `axes`

Which axis of a position drives which angle. Parameters go beside `axes` in `rope`.

| axes | parameters | |
|---|---|---|
"""

BUILDERS = """
## Builders of positions: `builder`

What `/v1/positions` can make. Tensors go into the message, all else into `arguments`.

| builder | tensors | arguments | |
|---|---|---|---|
"""


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        text = " ".join((field.description or "").split())
        flag = name.replace("_", "-")
        rows.append(f"| `{PREFIX}{name.upper()}` | `--{flag}` | {default} | {text} |\n")
    return SETTINGS + "".join(rows)


def catalogue_page() -> str:
    """Return the text of docs/catalogue.md."""
    known = list_variants()
    return (
        VARIANTS
        + "".join(map(_entry, known["variants"]))
        + SCHEMES
        + "".join(map(_entry, known["schemes"]))
        + BUILDERS
        + "".join(map(_builder, known["builders"]))
    )


def _entry(entry: dict[str, Any]) -> str:
    return f"| `{entry['name']}` | {_list(entry['parameters'])} | {entry['summary']} |\n"


def _builder(builder: dict[str, Any]) -> str:
    tensors = [each for each in builder["arguments"] if each["type"] == "tensor"]
    others = [each for each in builder["arguments"] if each["type"] != "tensor"]
    text = builder["summary"].removeprefix("Return ")
    return f"| `{builder['name']}` | {_list(tensors)} | {_list(others)} | {text} |\n"


def _list(parameters: list[dict[str, Any]]) -> str:
    return ", ".join(map(_parameter, parameters))


def _parameter(parameter: dict[str, Any]) -> str:
    name, default = f"`{parameter['name']}`", parameter["default"]
    if parameter["required"]:
        return name
    if isinstance(default, bool):
        default = str(default).lower()
    return f"({name})" if default is None else f"({name} {default})"


def clients_page() -> str:
    """Return the text of docs/clients.md: as it is, with each program as its file is."""
    page = (DOCS / "clients.md").read_text()
    shown = re.compile(
        r"(\]\((\.\./examples/clients/[^)]+)\)\n\n```\w+\n).*?^```$", re.DOTALL | re.MULTILINE
    )
    return shown.sub(lambda found: f"{found[1]}{(DOCS / found[2]).read_text()}```", page)


PAGES = {"settings": settings_page, "catalogue": catalogue_page, "clients": clients_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / f"{name}.md").write_text(page())
