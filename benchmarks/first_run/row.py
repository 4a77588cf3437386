"""A row of the table of the first run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Case, CaseFactory
from benchmarks.gpu_cases.measure import measure_case
from benchmarks.gpu_cases.sizes import Sizes

COLUMNS = ("name", "error", "us", "ratio", "over", "goal", "verdict", "note")
FAILED = "FAILED"
MAX_NOTE_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A result of a step. Numbers are None if they are not measured."""

    name: str
    error: float | None = None
    """||actual - expected|| / ||expected||, the largest if a row has several calls."""

    us: float | None = None
    """Time of a call in microseconds."""

    ratio: float | None = None
    """Time of `over` divided by `us`; the inverse if the goal is an upper bound."""

    over: str = ""
    """What the call is compared with: a floor, or another call in the same step."""

    goal: str = ""
    verdict: str = ""
    """`right`, `met`, `missed` or FAILED."""

    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether a result was wrong, or a call failed."""
        return self.verdict == FAILED

    @property
    def cells(self) -> list[object]:
        """The printed cells, in the order of COLUMNS."""
        error = "" if self.error is None else f"{self.error:.1e}"
        numbers = ("" if number is None else number for number in (self.us, self.ratio))
        return [self.name, error, *numbers, self.over, self.goal, self.verdict, self.note]


def failure(name: str, reason: object) -> Row:
    """Return the row of a failure; the reason is an exception or a text."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    text = " ".join(str(reason).split()).replace("|", "/")
    note = text if len(text) <= MAX_NOTE_CHARS else f"{text[:MAX_NOTE_CHARS]}..."
    return Row(name=name, verdict=FAILED, note=note)


def rows_of_cases(cases: Iterable[tuple[str, CaseFactory]], sizes: Sizes) -> Iterator[Row]:
    """Check and time each case, without other libraries; in a dry run, only check it."""
    timer = None if sizes.dry_run else cuda_timing.time_interleaved
    for name, factory in cases:
        for measured in measure_case(name, lambda f=factory: _without_libraries(f), timer):
            yield _row(measured)


def _without_libraries(factory: CaseFactory) -> Case:
    return replace(factory(), libraries=())


def _row(measured: dict[str, object]) -> Row:
    name = str(measured["call"])
    for key in ("failed", "missing"):
        if key in measured:
            return failure(name, measured[key])
    if "answer" in measured:
        verdict = "right" if measured["answer"] == "right" else ""
        error = measured["error"] if verdict else None
        return Row(name=name, error=error, verdict=verdict, note=str(measured["others"]))
    host = f"host {measured['host_us']:.0f} us" if measured["host_us"] != "" else ""
    notes = [str(measured["speed"]), host, str(measured["others"])]
    return Row(
        name=name,
        error=measured["error"],
        us=measured["us"],
        ratio=None if measured["ratio"] == "" else measured["ratio"],
        over=str(measured["over"]),
        goal=str(measured["goal"]),
        verdict=str(measured["verdict"]),
        note=", ".join(note for note in notes if note),
    )
