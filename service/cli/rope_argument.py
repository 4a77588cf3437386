"""The rope of a command: a path, standard input, the name of a preset, or JSON."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from rope_core.presets import MAX_BYTES
from rope_core.sources import OBJECT_FORMS, file_title, is_of_model
from service.cli.errors import InputError
from service.errors import printable
from service.wire import config_json

STDIN = "-"


@dataclass(frozen=True, slots=True)
class RopeArgument:
    """A rope as the user names it, and as a request has it."""

    text: str
    """What the user wrote."""

    title: str
    rope: Mapping[str, Any] | str

    @property
    def is_of_model(self) -> bool:
        """Whether the rope is that of a model: a config, or a preset."""
        return isinstance(self.rope, str) or any(form in self.rope for form in OBJECT_FORMS)

    def with_options(self, options: Mapping[str, Any]) -> Mapping[str, Any] | str:
        """Return the rope with options such as `layer`; those that are None are left out."""
        given = {name: value for name, value in options.items() if value is not None}
        if not given:
            return self.rope
        rope = {"preset": self.rope} if isinstance(self.rope, str) else self.rope
        return {**rope, **given}


def read_rope(text: str) -> RopeArgument:
    """Read the rope that a command names.

    Args:
        text: the path of a config.json or of its folder, `-` for standard input, the name of a
            preset, or a JSON object with parameters.

    Raises:
        InputError: a file cannot be read, or is not a JSON object.
    """
    if text == STDIN:
        return RopeArgument(
            text, "standard input", _parse(sys.stdin.buffer.read(), "standard input")
        )
    if text.lstrip().startswith("{"):
        return RopeArgument(text, "parameters", _parse(text.encode(errors="replace"), "the rope"))
    path = Path(text)
    try:
        if text and path.is_dir():
            path /= "config.json"
        if (text and path.exists()) or path.suffix == ".json":
            return RopeArgument(text, file_title(path), _parse(_read(path), text))
    except (OSError, ValueError):  # a name that no file can have
        pass
    name = text.encode(errors="replace").decode()  # bytes that are not UTF-8
    return RopeArgument(text, name, name)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _parse(data: bytes, name: str) -> Mapping[str, Any]:
    """Return the form that a request has for the contents of a file."""
    name = printable(name, 256)
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} must be at most {MAX_BYTES:,} bytes long")
    try:
        value = config_json.loads_config(data.decode())
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise InputError(f"{name} is not valid JSON: {printable(error, 256)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a JSON object, got {type(value).__name__}")
    is_form = any(form in value for form in OBJECT_FORMS) or not is_of_model(value)
    return value if is_form else {"config": value}
