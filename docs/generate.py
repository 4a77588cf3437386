"""Writes the generated pages of the documentation: `python docs/generate.py`."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from service.settings import PREFIX, Settings

HEAD = """# Settings

Made from `service/settings.py` by `make docs`.

Each setting is an environment variable and a flag of `rope-service serve`; the flag wins. An
unknown `ROPE_` variable stops the start. `rope-service serve --print-config` prints what is in
force.

| variable | flag | default | |
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
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (Path(__file__).parent / "settings.md").write_text(settings_page())
