"""Tables in Markdown, and what they were measured on."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Row = dict[str, object]


def print_head(columns: Sequence[str]) -> None:
    """Print the first two lines of a table."""
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) - 1), flush=True)


def print_row(cells: Iterable[object]) -> None:
    """Print a line of it."""
    print("| " + " | ".join(map(shown, cells)) + " |", flush=True)


def shown(cell: object) -> str:
    """Return a number with three digits, anything else as it is.

    >>> [shown(x) for x in (0.12345, 12.345, 123456.7, "x")]
    ['0.123', '12.3', '123,457', 'x']
    """
    if not isinstance(cell, float):
        return str(cell)
    digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2 if abs(cell) >= 1 else 3
    return f"{cell:,.{digits}f}"


def machine() -> Row:
    """Return what was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": date.today().isoformat(),
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions("torch", "uvicorn", "httptools", "uvloop"),
    }


def versions(*names: str) -> dict[str, str]:
    """Return those of the distributions that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def print_machine(on: Row | None = None) -> None:
    """Print a line of what was measured on: `machine` where None."""
    on = machine() if on is None else on
    print(", ".join(f"{name} {shown(value)}" for name, value in on.items()) + "\n", flush=True)


def write_json(path: Path, rows: list[Row], on: Row | None = None) -> None:
    """Write rows, and what was measured on: `machine` where None."""
    on = machine() if on is None else on
    path.write_text(json.dumps({"machine": on, "rows": rows}, indent=1) + "\n")
