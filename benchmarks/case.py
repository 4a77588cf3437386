"""A case of `benchmarks.core`: a call of the library and its floor."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.timing import Function


@dataclass(frozen=True, slots=True)
class Case:
    """A call of the library, and the floor that its time is compared with."""

    name: str
    run: Function
    check: Callable[[], None]
    """Exits the program if the result is wrong."""

    floor_name: str
    floor: Function
    work: float
    """Bytes or floating-point operations of a call."""

    unit: str = "GB/s"
    floor_work: float | None = None
    """Bytes or operations of the floor; None if they are the same as `work`."""

    @property
    def floor_share(self) -> float:
        """The work of a call as a fraction of the work of the floor."""
        return 1.0 if self.floor_work is None else self.work / self.floor_work


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the cases."""

    large_shape: tuple[int, int, int, int] = (8, 2048, 32, 128)
    """`[B, S, H, D]` of the large rotation."""

    prompt_lengths: tuple[int, ...] = (512, 2048)
    matmul_size: int = 2048
    cached_keys: int = 8192
    table_length: int = 131_072
    ragged_lengths: tuple[int, int, int] = (32, 16, 512)
    """Number of sequences, and their shortest and longest length."""


QUICK = Sizes((1, 64, 4, 32), (32,), 128, 128, 1024, (4, 4, 32))
