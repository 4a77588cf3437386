"""A case, checked and then timed, as rows of the table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

import torch

from benchmarks.gpu_cases import reference
from benchmarks.gpu_cases.case import Case, Make, Over, Run, Side
from benchmarks.gpu_cases.cuda_timing import Times
from benchmarks.gpu_cases.packages import Missing
from benchmarks.table import Row, shown

COLUMNS = ("call", "error", "us", "host us", "speed", "over", "ratio", "goal", "", "notes")
DRY_COLUMNS = ("call", "answer", "others")
SLACK_OF_OTHERS = 2.0

UNITS = {"TB/s": 1e12, "GB/s": 1e9, "TFLOP/s": 1e12}

Clock = Callable[[Mapping[str, Run]], Mapping[str, Times]]
"""Times each run."""


@torch.inference_mode()
def rows_of(name: str, make: Make, take_turns: Clock | None) -> Iterator[Row]:
    """Yield the rows of a case, one for each thing that it is set over; without a clock, one.

    Of a case that fails there is one, whose `failed` tells why; of one that is about a library
    that is not there, `missing`.
    """
    try:
        case = make()
        error = reference.check(case.own)
        notes: list[str] = []
        over = [each for each in case.over if all(_right(side, notes) for side, _ in each.sides)]
        others = [side for made in case.others if (side := _made(made, notes)) is not None]
        if take_turns is None:
            told = [f"{side.name} right" for side in others]
            answer = "right" if case.own.truth else "not asked"
            row = {"call": name, "error": error, "answer": answer}
            yield {**row, "others": ", ".join(told + notes)}
            return
        sides = [replace(case.own, name="own"), *others]
        sides += [side for each in over for side, _ in each.sides]
        runs = {side.name: side.run for side in sides}
        assert len(runs) == len(sides), "each has a name"
        if case.measure is None:
            timed = take_turns(runs)
            took = {key: median(each.device_s) / case.calls for key, each in timed.items()}
            host_us: object = timed["own"].host_s * 1e6 / case.calls
        else:
            took = {key: median(each) / case.calls for key, each in case.measure().items()}
            host_us = ""
        notes = [note for note in (case.note(), *notes) if note]
        times = [f"{side.name} {shown(took[side.name] / took['own'])}" for side in others]
        for row in _set_over(case, over, took, host_us):
            yield {"call": name, "error": error, **row, "others": ", ".join(times + notes)}
            times, notes = [], []
    except Missing as why:
        yield {"call": name, "missing": str(why)}
    except reference.Wrong as why:
        yield {"call": name, "failed": f"wrong, so not timed: {why}"}
    except Exception as why:  # whatever it is, the other cases shall run
        yield {"call": name, "failed": _told(why)}


def _set_over(
    case: Case, over: Sequence[Over], took: Mapping[str, float], host_us: object
) -> Iterator[Row]:
    speed = f"{shown(case.work / took['own'] / UNITS[case.unit])} {case.unit}" if case.work else ""
    times = {"us": took["own"] * 1e6, "host_us": host_us, "speed": speed}
    if not over:
        yield {**times, "over": "", "ratio": "", "goal": "", "verdict": ""}
    for each in over:
        ratio = each.ratio(took)
        row = {**times, "over": each.name, "ratio": ratio}
        yield row | {"goal": each.goal, "verdict": each.verdict(ratio)}


def _right(side: Side, notes: list[str]) -> bool:
    """Tell whether a side may be timed, and note why not; raise where the fault is ours."""
    try:
        reference.check(side, 1.0 if side.ours else SLACK_OF_OTHERS)
    except reference.Wrong as why:
        if side.ours:
            raise
        notes.append(f"{side.name} wrong: {why}")
    except Exception as why:  # of another library: any
        if side.ours:
            raise
        notes.append(f"{side.name} failed: {_told(why)}")
    else:
        return True
    return False


def _made(make: Callable[[], Side], notes: list[str]) -> Side | None:
    """Return a side that may be timed; note why there is none, unless it is merely missing."""
    try:
        side = make()
    except Missing:
        return None
    except Exception as why:  # of another library: any
        notes.append(f"failed: {_told(why)}")
        return None
    return side if _right(replace(side, ours=False), notes) else None


def _told(why: Exception) -> str:
    text = " ".join(f"{type(why).__name__}: {why}".split()).replace("|", "/")
    return text if len(text) <= 160 else f"{text[:160]}..."


def cells(row: Row) -> list[object]:
    """Return what is printed of a row."""
    for key in ("failed", "missing"):
        if key in row:
            return [row["call"], f"{key.upper()}: {row[key]}"]
    if "answer" in row:
        row = {key: cell for key, cell in row.items() if key != "error"}
    return [f"{cell:.1e}" if key == "error" else cell for key, cell in row.items()]
