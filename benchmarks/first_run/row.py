"""A row of the table of the first run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.gpu_cases import clock
from benchmarks.gpu_cases.case import Case, Make
from benchmarks.gpu_cases.rows import rows_of
from benchmarks.gpu_cases.sizes import Sizes

COLUMNS = ("name", "error", "us", "ratio", "over", "goal", "verdict", "note")
FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a step found out; numbers are None where there is none."""

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
    """Return the row of what failed."""
    text = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    text = " ".join(text.split()).replace("|", "/")
    return Row(name=name, verdict=FAILED, note=text if len(text) <= 300 else f"{text[:300]}...")


def rows_of_cases(cases: Iterable[tuple[str, Make]], sizes: Sizes) -> Iterator[Row]:
    """Check each case and time it, without other libraries; in a dry run, check it."""
    take_turns = None if sizes.dry else clock.take_turns
    for name, make in cases:
        for found in rows_of(name, lambda make=make: _alone(make), take_turns):
            yield _row(found)


def _alone(make: Make) -> Case:
    return replace(make(), others=())


def _row(found: dict[str, object]) -> Row:
    name = str(found["call"])
    for key in ("failed", "missing"):
        if key in found:
            return failure(name, found[key])
    if "answer" in found:
        verdict = "right" if found["answer"] == "right" else ""
        error = found["error"] if verdict else None
        return Row(name=name, error=error, verdict=verdict, note=str(found["others"]))
    host = f"host {found['host_us']:.0f} us" if found["host_us"] != "" else ""
    notes = [str(found["speed"]), host, str(found["others"])]
    return Row(
        name=name,
        error=found["error"],
        us=found["us"],
        ratio=None if found["ratio"] == "" else found["ratio"],
        over=str(found["over"]),
        goal=str(found["goal"]),
        verdict=str(found["verdict"]),
        note=", ".join(note for note in notes if note),
    )
