"""A row of the table of the first run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Case, Make
from benchmarks.gpu_cases.measure import rows_of
from benchmarks.gpu_cases.sizes import Sizes

COLUMNS = ("name", "error", "us", "ratio", "over", "goal", "verdict", "note")
FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A result of a step. Numbers are None where they are not measured."""

    name: str
    error: float | None = None
    """||answer - truth|| / ||truth||, the largest of a row of several calls."""

    us: float | None = None
    """Time of a call in microseconds."""

    ratio: float | None = None
    """What the goal is about: the time of `over` over `us`, or `us` over it for an upper bound."""

    over: str = ""
    """The floor of the same run, or the call, that `ratio` is about."""

    goal: str = ""
    verdict: str = ""
    """`right`, `met`, `missed` or FAILED."""

    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether an answer was wrong, or there was none."""
        return self.verdict == FAILED

    @property
    def cells(self) -> list[object]:
        """What is printed, in the order of COLUMNS."""
        error = "" if self.error is None else f"{self.error:.1e}"
        numbers = ("" if number is None else number for number in (self.us, self.ratio))
        return [self.name, error, *numbers, self.over, self.goal, self.verdict, self.note]


def failure(name: str, why: object) -> Row:
    """Return the row of a failure: an exception or a reason."""
    text = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    text = " ".join(text.split()).replace("|", "/")
    return Row(name=name, verdict=FAILED, note=text if len(text) <= 300 else f"{text[:300]}...")


def rows_of_cases(cases: Iterable[tuple[str, Make]], sizes: Sizes) -> Iterator[Row]:
    """Check and time each case, without other libraries; in a dry run only check it."""
    take_turns = None if sizes.dry else cuda_timing.take_turns
    for name, make in cases:
        for measured in rows_of(name, lambda make=make: _without_others(make), take_turns):
            yield _row(measured)


def _without_others(make: Make) -> Case:
    return replace(make(), others=())


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
