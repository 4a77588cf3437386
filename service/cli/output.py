"""What commands print: tables on standard output, without colour and frames in a pipe."""

import json
import math
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.theme import Theme

THOUSANDS = " "

PIPE_WIDTH = 100_000
"""Columns of a pipe: no line is folded."""

MAX_VALUE = 60
"""Characters of a list or an object in a table."""

THEME = Theme(
    {
        "number": "bold cyan",
        "kept": "bold",
        "blended": "magenta",
        "divided": "bold blue",
        "label": "dim",
        "good": "green",
        "bad": "bold red",
    }
)


def console() -> Console:
    """Return the console of standard output."""
    made = Console(theme=THEME, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def new_table(*headings: str, left: Iterable[str] = ()) -> Table:
    """Return a table without frames, whose columns are aligned to the right but for `left`."""
    table = Table(box=None, header_style="label", pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    return table


def count_text(number: int) -> str:
    """Write a whole number with spaces between thousands."""
    return f"{number:,}".replace(",", THOUSANDS)


def number_text(number: float) -> str:
    """Write a number with four significant digits."""
    if not math.isfinite(number):
        return "—"
    if number == int(number) and abs(number) < 1e9:
        return count_text(int(number))
    return f"{number:.4g}"


def value_text(value: object) -> str:
    """Write a value of JSON in one line."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, str):
        return value
    text = json.dumps(value, default=dict)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
