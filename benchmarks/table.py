"""Markdown tables, and a description of the machine."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Row = dict[str, object]


def print_header(columns: Sequence[str]) -> None:
    """Print the header and the separator of a table."""
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) - 1), flush=True)


def print_row(cells: Iterable[object]) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(format_cell, cells)) + " |", flush=True)


def format_cell(cell: object) -> str:
    """Format a number with three digits, and anything else with `str`.

    >>> [format_cell(x) for x in (0.12345, 12.345, 123456.7, "x")]
    ['0.123', '12.3', '123,457', 'x']
    """
    if not isinstance(cell, float):
        return str(cell)
    digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2 if abs(cell) >= 1 else 3
    return f"{cell:,.{digits}f}"


def machine() -> Row:
    """Return the date, the processor and versions of the software."""
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
    """Return the version of each distribution that is installed."""
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def print_machine(info: Row | None = None) -> None:
    """Print a line that describes the machine; by default that of `machine`."""
    info = machine() if info is None else info
    print(
        ", ".join(f"{name} {format_cell(value)}" for name, value in info.items()) + "\n", flush=True
    )


def write_json(path: Path, rows: list[Row], info: Row | None = None) -> None:
    """Write the rows and the machine as JSON; by default that of `machine`."""
    info = machine() if info is None else info
    path.write_text(json.dumps({"machine": info, "rows": rows}, indent=1) + "\n")
