"""Values of the chart with their comments."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tools.chart.paths import VALUES

KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")


class Value(NamedTuple):
    """A value that has a comment "# --"."""

    section: str
    path: str
    default: Any
    text: str


def read_values() -> list[Value]:
    """Return the values of values.yaml that have a comment "# --", in its order.

    Raises:
        ValueError: a value has no comment, and none above it has one.
    """
    text = VALUES.read_text()
    described = [*_describe(text.splitlines(), yaml.safe_load(text))]
    paths = {each.path for each in described}
    for path in _leaves(yaml.safe_load(text)):
        parts = path.split(".")
        if not any(".".join(parts[:n]) in paths for n in range(1, len(parts) + 1)):
            raise ValueError(f"values.yaml has no comment `# --` for {path}")
    return described


def _describe(lines: list[str], values: Any) -> Iterator[Value]:
    section, comment = "General", ""
    parents: list[tuple[int, str]] = []
    for line in lines:
        if line.strip().startswith("# @section "):
            section = line.strip().removeprefix("# @section ")
        elif line.strip().startswith("# -- "):
            comment = line.strip().removeprefix("# -- ")
        elif match := KEY.match(line):
            indent, key = len(match[1]), match[2]
            parents = [each for each in parents if each[0] < indent] + [(indent, key)]
            path = [name for _, name in parents]
            if comment:
                default = values
                for name in path:
                    default = default[name]
                yield Value(section, ".".join(path), default, comment)
            comment = ""


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name
