"""One thing that `core` times, and the floor under it."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.timing import Run


@dataclass(frozen=True, slots=True)
class Case:
    """A call of the library."""

    name: str
    run: Run
    check: Callable[[], None]
    """Leaves the program if the answer is wrong."""

    floor_name: str
    floor: Run
    work: float
    """Bytes or floating-point operations of a run."""

    unit: str = "GB/s"
    floor_work: float | None = None
    """Those of the floor, where it does not do the same work."""

    @property
    def share(self) -> float:
        """How much of the floor's work a run is."""
        return 1.0 if self.floor_work is None else self.work / self.floor_work


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the cases are."""

    large: tuple[int, int, int, int] = (8, 2048, 32, 128)
    prompts: tuple[int, ...] = (512, 2048)
    matrix: int = 2048
    cached: int = 8192
    table: int = 131_072
    ragged: tuple[int, int, int] = (32, 16, 512)
    """Sequences, and their least and largest length."""


QUICK = Sizes((1, 64, 4, 32), (32,), 128, 128, 1024, (4, 4, 32))
