"""Every kernel on a CUDA device: `python -m benchmarks.gpu [--dry-run] [--only TEXT] [--json FILE]`.

A row is printed after its answer was compared with float64: `error` is ||answer - truth|| / ||truth||.
`ratio` is the time that the thing under `over` takes for the same work, over the call's own; where
the goal is an upper bound, the call's time over its, or microseconds. Times of others are multiples
of the call's. Each section is a process of its own, so that one that fails takes no other with it.
The exit status is 1 if an answer was wrong or a call failed, and 0 however many goals are missed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import table
from benchmarks.table import Row

SECTION_S, ALL_S = 150, 460
"""How long a section, and all of them, may take."""

WARM_S = 1.0


def main() -> None:
    """Run the command line."""
    args = _arguments()
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run compares the answers without one")
    torch.manual_seed(0)
    if args.section:
        _warm()
        _run(args.section, args.only, args.json)
        return
    on = _dry_machine() if args.dry_run else _machine()
    table.print_machine(on)
    rows = _dry_run(args.only) if args.dry_run else _run_apart(args.only)
    if args.json:
        table.write_json(args.json, rows, on)
    failed = [str(row["call"]) for row in rows if "failed" in row]
    if failed or not rows:
        raise SystemExit(
            f"failed: {', '.join(failed)}" if failed else "no call has that in its name"
        )


def _dry_run(only: str) -> list[Row]:
    from benchmarks.gpu_cases import rows, sections
    from tests.kernels import interpreter

    interpreter.put_right()
    print("dry run: no figure is a GPU figure, and none is printed\n")
    table.print_head(rows.DRY_COLUMNS)
    cases = (case for name in sections.SECTIONS for case in sections.wanted(name, only, dry=True))
    return [_printed(row) for name, make in cases for row in rows.rows_of(name, make, None)]


def _run(section: str, only: str, found: Path) -> None:
    """Run a section, and write the rows so far after each of them."""
    from benchmarks.gpu_cases import clock, rows, sections

    so_far = []
    for name, make in sections.wanted(section, only, dry=False):
        for row in rows.rows_of(name, make, clock.take_turns):
            so_far.append(_printed(row))
            found.write_text(json.dumps(so_far))
        torch.cuda.empty_cache()


def _run_apart(only: str) -> list[Row]:
    """Run each section in a process."""
    from benchmarks.gpu_cases import rows, sections

    table.print_head(rows.COLUMNS)
    so_far, begun = [], time.monotonic()
    with TemporaryDirectory() as folder:
        for section in sections.SECTIONS:
            if not sections.wanted(section, only, dry=False):
                continue
            found = Path(folder, f"{section}.json")
            left_s = min(SECTION_S, ALL_S - (time.monotonic() - begun))
            why = _process(left_s, "--section", section, "--only", only, "--json", str(found))
            so_far += json.loads(found.read_text()) if found.exists() else []
            if why:
                so_far.append(_printed({"call": section, "failed": why}))
    return so_far


def _process(limit_s: float, *arguments: str) -> str | None:
    """Run this module, and return what went wrong."""
    if limit_s <= 0:
        return f"not begun: {ALL_S} s are over"
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    try:
        status = subprocess.run(command, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    return f"ended with status {status}" if status else None


def _printed(row: Row) -> Row:
    failed = row.get("failed")
    table.print_row(row.values() if failed is None else (row["call"], f"FAILED: {failed}"))
    return row


def _dry_machine() -> Row:
    return {"date": date.today().isoformat(), **table.versions("torch", "triton")}


def _machine() -> Row:
    """Return what is measured on, warm, and which comparators there are."""
    from benchmarks.gpu_cases import others

    _warm()
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": date.today().isoformat(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_mb": properties.L2_cache_size / 1e6,
        **_smi("driver_version", "clocks.sm", "clocks.max.sm"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **table.versions("torch", "triton"),
        **others.found(),
    }


def _smi(*names: str) -> Row:
    """Return what nvidia-smi says, if it does."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, map(str.strip, said.stdout.split(",")), strict=False))


def _warm() -> None:
    """Multiply until the clocks are up."""
    x = torch.randn(4096, 4096, device="cuda").bfloat16()
    until = time.monotonic() + WARM_S
    while time.monotonic() < until:
        for _ in range(20):
            x @ x
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="interpreted, tiny, nothing timed")
    parser.add_argument("--only", default="", help="the calls whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
