"""One thing that is checked and timed, and what it is held against."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a run must come to."""

    tensors: Callable[[], Sequence[Tensor]]
    """In float64."""

    bars: Sequence[float]
    """Of each tensor: how far off an answer may be, ||answer - truth|| / ||truth||."""


@dataclass(frozen=True, slots=True)
class Side:
    """A way to do the work of a case, or a floor under it."""

    name: str
    run: Run
    truth: Truth | None = None
    """What its first run must come to; None for a floor."""

    read: Callable[[Any], Sequence[Tensor]] = tuple
    """Makes what a run returns into the tensors that `truth` tells of."""


@dataclass(frozen=True, slots=True)
class Over:
    """What the time of a case is set over, and the goal."""

    name: str
    sides: Sequence[tuple[Side, float]]
    """The slowest counts, each with how much of its work a run of the case is."""

    least: float | None = None
    """Goal: its time over ours, at least."""

    most: float | None = None
    """Goal: our time over its, at most; without sides, our time in microseconds."""

    def ratio(self, took: Mapping[str, float]) -> float:
        """Return what the goal is about, by the seconds of each side and of `own`."""
        if not self.sides:
            return took["own"] * 1e6
        its = max(took[side.name] * share for side, share in self.sides)
        return its / took["own"] if self.most is None else took["own"] / its

    @property
    def goal(self) -> str:
        """Return it in words."""
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    def verdict(self, ratio: float) -> str:
        """Return whether it is met."""
        if not self.goal:
            return ""
        return "met" if (self.least or 0) <= ratio <= (self.most or math.inf) else "missed"


@dataclass(frozen=True, slots=True)
class Case:
    """A call of our kernels."""

    own: Side
    over: Sequence[Over]
    work: float
    """Bytes or floating-point operations of a call."""

    unit: str = "TB/s"
    others: Sequence[Callable[[], Side]] = ()
    """Make other libraries' ways to do it; `others.Missing` where there is none."""

    calls: int = 1
    """Calls of each run."""


Make = Callable[[], Case]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the cases are: several times what the L2 cache holds, or as many buffers."""

    device: str = "cuda"
    copied: int = 2**30
    """Bytes of the copy."""

    matrix: int = 8192
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    tokens: int = 16_384
    """That are rotated, and of dense prompts."""

    table: int = 131_072
    """Positions of a table."""

    merged: int = 262_144
    """Rows, tokens times heads."""

    moved: int = 131_072
    """Keys that are re-positioned."""

    page_size: int = 16
    batches: tuple[int, ...] = (32, 64)
    cached: tuple[int, int] = (1024, 16_384)
    """Least and most keys of a decode."""

    long: int = 65_536
    prompts: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    widths: tuple[int, ...] = (64, 128, 256)
    hidden: int = 2048
    """Heads times width of prompts that are held against other libraries."""

    ragged: tuple[int, int, int] = (64, 64, 4096)
    fused: tuple[tuple[int, float], ...] = ((2048, 1.15), (8192, 1.06))
    """Lengths of prompts that are rotated and attended, and the goal."""

    small: int = 1024
    """Keys of a small decode."""

    calls: int = 32
    """In a graph."""

    @property
    def dry(self) -> bool:
        """Whether kernels are interpreted."""
        return self.device == "cpu"


FULL = Sizes()
DRY = Sizes(
    device="cpu",
    copied=1024,
    matrix=16,
    heads=(4, 2),
    head_dim=32,
    tokens=48,
    table=512,
    merged=40,
    moved=40,
    batches=(2,),
    cached=(20, 70),
    long=100,
    prompts=(48,),
    widths=(32,),
    hidden=64,
    ragged=(3, 5, 40),
    fused=((32, 1.15),),
    small=40,
    calls=2,
)


def randn(sizes: Sizes, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return random numbers; zeros are faster to multiply than what a model computes."""
    return torch.randn(shape, device=sizes.device).to(dtype)


def poison(*like: Tensor) -> tuple[Tensor, ...]:
    """Return tensors for an answer, every element NaN until it is written."""
    return tuple(torch.full_like(x, torch.nan) for x in like)


def short(dtype: torch.dtype) -> str:
    """Return its name."""
    return str(dtype).removeprefix("torch.")
