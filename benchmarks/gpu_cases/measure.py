"""Check a case, measure it, and yield its rows of the table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import median

import torch

from benchmarks.gpu_cases import reference
from benchmarks.gpu_cases.case import (
    Case,
    CaseFactory,
    Comparison,
    Function,
    Provider,
    ProviderFactory,
)
from benchmarks.gpu_cases.cuda_timing import Times
from benchmarks.gpu_cases.packages import Unavailable
from benchmarks.table import Row, format_cell

COLUMNS = ("call", "error", "us", "host us", "speed", "over", "ratio", "goal", "", "notes")
DRY_RUN_COLUMNS = ("call", "answer", "others")
LIBRARY_SLACK = 2.0
"""Factor on the tolerances of other libraries."""

MAX_NOTE_CHARS = 160
UNITS = {"TB/s": 1e12, "GB/s": 1e9, "TFLOP/s": 1e12}

Timer = Callable[[Mapping[str, Function]], Mapping[str, Times]]


@torch.inference_mode()
def measure_case(name: str, factory: CaseFactory, timer: Timer | None) -> Iterator[Row]:
    """Yield one row per comparison of a case; without a timer, check only and yield one row.

    A case that fails yields one row with the key `failed`, and a case that needs a library that is
    not available one with the key `missing`. Both values are the reason.
    """
    try:
        case = factory()
        error = reference.check(case.ours)
        notes: list[str] = []
        comparisons = [
            comparison
            for comparison in case.comparisons
            if all(_is_correct(provider, notes) for provider, _ in comparison.baselines)
        ]
        libraries = [
            provider
            for library in case.libraries
            if (provider := _create_library(library, notes)) is not None
        ]
        if timer is None:
            notes = [f"{provider.name} right" for provider in libraries] + notes
            answer = "right" if case.ours.expected else "not checked"
            yield {"call": name, "error": error, "answer": answer, "others": ", ".join(notes)}
            return
        seconds, host_us = _time(case, comparisons, libraries, timer)
        notes = [note for note in (case.note(), *notes) if note]
        ratios = ((lib.name, seconds[lib.name] / seconds["ours"]) for lib in libraries)
        notes = [f"{library} {format_cell(ratio)}" for library, ratio in ratios] + notes
        for row in _compare(case, comparisons, seconds, host_us):
            yield {"call": name, "error": error, **row, "others": ", ".join(notes)}
            notes = []
    except Unavailable as exc:
        yield {"call": name, "missing": str(exc)}
    except reference.WrongAnswer as exc:
        yield {"call": name, "failed": f"wrong, so not timed: {exc}"}
    except Exception as exc:  # any error is a row, and the other cases run
        yield {"call": name, "failed": _describe(exc)}


def _time(
    case: Case, comparisons: list[Comparison], libraries: list[Provider], timer: Timer
) -> tuple[dict[str, float], object]:
    """Return the seconds per call of each provider, and the host's microseconds if measured."""
    if case.measure is not None:
        samples = case.measure()
        return {name: median(values) / case.calls for name, values in samples.items()}, ""
    providers = [replace(case.ours, name="ours"), *libraries]
    providers += [provider for comparison in comparisons for provider, _ in comparison.baselines]
    runs = {provider.name: provider.run for provider in providers}
    assert len(runs) == len(providers), "names of providers are unique"
    times = timer(runs)
    seconds = {name: median(t.device_s) / case.calls for name, t in times.items()}
    return seconds, times["ours"].host_s * 1e6 / case.calls


def _compare(
    case: Case, comparisons: list[Comparison], seconds: Mapping[str, float], host_us: object
) -> Iterator[Row]:
    speed = ""
    if case.work:
        speed = f"{format_cell(case.work / seconds['ours'] / UNITS[case.unit])} {case.unit}"
    times = {"us": seconds["ours"] * 1e6, "host_us": host_us, "speed": speed}
    if not comparisons:
        yield {**times, "over": "", "ratio": "", "goal": "", "verdict": ""}
    for comparison in comparisons:
        ratio = comparison.ratio(seconds)
        row = {**times, "over": comparison.name, "ratio": ratio}
        yield row | {"goal": comparison.goal, "verdict": comparison.verdict(ratio)}


def _is_correct(provider: Provider, notes: list[str]) -> bool:
    """Check a provider. Add a note if another library is wrong or fails; raise if ours does."""
    try:
        reference.check(provider, 1.0 if provider.is_ours else LIBRARY_SLACK)
    except reference.WrongAnswer as exc:
        if provider.is_ours:
            raise
        notes.append(f"{provider.name} wrong: {exc}")
    except Exception as exc:  # another library may raise anything
        if provider.is_ours:
            raise
        notes.append(f"{provider.name} failed: {_describe(exc)}")
    else:
        return True
    return False


def _create_library(factory: ProviderFactory, notes: list[str]) -> Provider | None:
    """Create and check another library's provider; return None if it cannot be timed.

    Add a note with the reason, except for a library that is not available.
    """
    try:
        provider = replace(factory(), is_ours=False)
    except Unavailable:
        return None
    except Exception as exc:  # another library may raise anything
        notes.append(f"failed: {_describe(exc)}")
        return None
    return provider if _is_correct(provider, notes) else None


def _describe(exc: Exception) -> str:
    text = " ".join(f"{type(exc).__name__}: {exc}".split()).replace("|", "/")
    return text if len(text) <= MAX_NOTE_CHARS else f"{text[:MAX_NOTE_CHARS]}..."


def cells(row: Row) -> list[object]:
    """Return the printed cells of a row."""
    for key in ("failed", "missing"):
        if key in row:
            return [row["call"], f"{key.upper()}: {row[key]}"]
    if "answer" in row:
        row = {key: value for key, value in row.items() if key != "error"}
    return [f"{value:.1e}" if key == "error" else value for key, value in row.items()]
