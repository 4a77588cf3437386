"""The table of frequencies that `inspect` prints, with bars on a logarithmic axis."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.frequency_rows import FrequencyRow
from service.cli.output import THOUSANDS, count_text, new_table, number_text

BLOCKS = " ▏▎▍▌▋▊▉█"
"""A cell that is filled by 0 to 8 eighths."""

MAX_BAR = 48
MIN_BAR = 12
"""Cells of the longest bar; a narrower terminal shows no bars."""

FIRST_DECADE = 0.5
"""Logarithm of the positions at which bars begin: a pair of one radian per position has a bar."""

PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def frequency_table(rows: Sequence[FrequencyRow], trained: int | None, console: Console) -> Table:
    """Return the table. A terminal shows bars; without colours, the bands have names.

    Args:
        rows: the pairs to show.
        trained: trained length; None if it is not known.
        console: where the table will be printed.
    """
    columns: dict[str, list[str]] = {"pair": [str(row.pair) for row in rows]}
    if any(row.axis is not None for row in rows):
        columns["axis"] = [str(row.axis) for row in rows]
    columns["rad/position"] = [number_text(row.frequency) for row in rows]
    columns["positions/turn"] = [_positions_text(row.positions_per_turn) for row in rows]
    is_scaled = any(row.divisor is not None for row in rows)
    if is_scaled:
        columns["÷"] = ["—" if row.divisor is None else f"{row.divisor:.3f}" for row in rows]
    if trained is not None:
        turns = [0.0 if row.turns is None else row.turns for row in rows]
        columns[f"turns in {count_text(trained)}"] = [_turns_text(number) for number in turns]
    table = new_table(*columns)
    width = sum(max(map(len, (name, *cells))) + 2 for name, cells in columns.items())
    has_bars = console.is_terminal and console.width - width - 2 >= MIN_BAR
    has_names = is_scaled and (not has_bars or console.no_color)
    if has_names:
        table.add_column("")
    bar_width = min(MAX_BAR, console.width - width - 2 - 10 * has_names)
    longest = max((r.positions_per_turn for r in rows if r.frequency), default=10.0)
    cells_per_decade = bar_width / max(1.0, math.log10(longest) - FIRST_DECADE + 0.3)
    if has_bars:
        table.add_column(_axis(bar_width, cells_per_decade), justify="left", no_wrap=True)
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True):
        shown: list[str | Text] = [*cells]
        if has_names:
            shown.append(row.band or "")
        if has_bars:
            bar = _bar(row.positions_per_turn, cells_per_decade)
            shown.append(Text(bar, style=row.band or ""))
        table.add_row(*shown)
    return table


def _bar(positions: float, cells_per_decade: float) -> str:
    if math.isinf(positions):
        return "does not turn"
    decades = math.log10(max(1.0, positions)) - FIRST_DECADE
    eighths = max(1, round(8 * cells_per_decade * decades))
    return BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()


def _axis(width: int, cells_per_decade: float) -> str:
    """Return the labels of every second decade, each at its place."""
    text = ""
    for decade in range(1, 16, 2):
        start = round((decade - FIRST_DECADE) * cells_per_decade)
        label = _decade_text(10.0**decade)
        if start < width:  # the last one may end at the border
            start = min(start, width - len(label))
        if len(text) < start <= width - len(label) or not text:
            text = text.ljust(start) + label
    return text


def _decade_text(number: float) -> str:
    for unit, prefix in PREFIXES:
        if number >= unit:
            return f"{number / unit:.0f}{THOUSANDS}{prefix}"
    return f"{number:.0f}"


def _positions_text(positions: float) -> str:
    if math.isinf(positions) or positions >= 1e15:
        return "—" if math.isinf(positions) else number_text(positions)
    return count_text(round(positions)) if positions >= 1 else number_text(positions)


def _turns_text(turns: float) -> str:
    return count_text(round(turns)) if turns >= 1e3 else f"{turns:.3g}"
