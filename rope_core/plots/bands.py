"""Runs of pairs that a variant treats alike: kept, blended, divided, or at rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rope_core.config import RopeConfig
from rope_core.plots.figure import (
    BLUE,
    BLUE_GROUND,
    GROUND,
    INK,
    INK_3,
    PAPER,
    TEXT,
    VIOLET,
    VIOLET_GROUND,
    above,
    size_points,
    spread,
)
from rope_core.plots.number_text import number_text
from rope_core.scaling import pair_bands, scaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BANDS = 4
"""A row with more runs than this has no bands: its pairs have factors of their own."""

COLORS = {
    "turn": (PAPER, INK),
    "kept": (PAPER, INK),
    "blended": (VIOLET_GROUND, VIOLET),
    "divided": (BLUE_GROUND, BLUE),
    "do not turn": (GROUND, INK_3),
}
"""Ground and text of each kind of band."""


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring pairs of one kind."""

    kind: str
    start: int
    stop: int
    text: str


def find_bands(rope: RopeConfig) -> list[Band]:
    """Return the bands of the pairs of a rope; one band if its pairs have divisors of their own."""
    change = scaling(rope)
    kinds: list[str] = [band or "do not turn" for band in pair_bands(rope)]
    num_pairs = len(kinds)
    if not change.blended and not change.divided:
        kinds = ["turn" if kind == "kept" else kind for kind in kinds]
    bands = [*_runs(kinds, change.factor)]
    if {*kinds} == {"turn"}:
        text = f"{num_pairs} pairs" if rope.needs_length else f"{num_pairs} pairs, without scaling"
        return [Band("turn", 0, num_pairs, text)]
    if len(bands) > MAX_BANDS or (change.blended and change.divided < 2):
        text = f"{num_pairs} pairs, each divided by a number of its own"
        return [Band("turn", 0, num_pairs, text)]
    return bands


def _runs(kinds: list[str], factor: float) -> Iterator[Band]:
    start = 0
    for kind, run in groupby(kinds):
        stop = start + len([*run])
        by = f" by {number_text(factor)}" if kind == "divided" else ""
        yield Band(kind, start, stop, f"{stop - start} {kind}{by}")
        start = stop


def draw_bands(ax: "Axes", bands: list[Band]) -> None:
    """Colour the ground behind the bands, and write their names above the Axes."""
    left, right = ax.get_xlim()
    width = size_points(ax)[0]
    centres = [((band.start + band.stop - 1) / 2 - left) / (right - left) for band in bands]
    sizes = [(len(band.text) * 0.62 + 1) * TEXT / width for band in bands]
    for band, x in zip(bands, spread(centres, sizes, 0.0, 1.0), strict=True):
        ground, color = COLORS[band.kind]
        ax.axvspan(band.start - 0.5, band.stop - 0.5, color=ground, linewidth=0, zorder=-1)
        above(ax, band.text, x, 5, ha="center", color=color, fontweight="bold")
