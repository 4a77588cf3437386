"""The lower axis of a figure: pairs, or positions on a logarithmic scale."""

from typing import TYPE_CHECKING

from rope_core.hf import Lengths
from rope_core.plots.figure import INK, INK_2, TEXT, above, logarithmic, size_points, spread
from rope_core.plots.number_text import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MARKERS = 96
"""A row of more pairs is a line without markers."""


def prepare_pairs(ax: "Axes", num_pairs: int, label: str) -> None:
    """Name about eight pairs, and the last one."""
    step = 1
    while num_pairs / step > 9:
        step *= 2
    ax.set_xlim(-0.5, num_pairs - 0.5)
    ax.set_xticks([*range(0, num_pairs - 1 - step // 2, step), num_pairs - 1])
    ax.set_xlabel(label, fontsize=TEXT, color=INK_2, labelpad=6)


def prepare_positions(ax: "Axes", last: int, label: str, lengths: Lengths) -> None:
    """Make the lower axis logarithmic from 1 to `last`, with lines at the lengths of a model."""
    logarithmic(ax, ax.xaxis, 1, last)
    ax.set_xlabel(label, fontsize=TEXT, color=INK_2, labelpad=6)
    names = {"trained": lengths.trained, "allowed": lengths.allowed}
    if lengths.trained == lengths.allowed:
        del names["allowed"]
    marks = [(f"{name} {number_text(n)}", n) for name, n in names.items() if n and n <= last]
    to_axes = ax.transData + ax.transAxes.inverted()
    width = size_points(ax)[0]
    sizes = [(len(text) * 0.58 + 1.5) * TEXT / width for text, _ in marks]
    centres = [to_axes.transform((n, 1.0))[0] for _, n in marks]
    for (text, n), x in zip(marks, spread(centres, sizes, 0.0, 1.2), strict=True):
        ax.axvline(n, color=INK, linewidth=1.0, zorder=2, label=f"_{text}")
        above(ax, text, x, 5, ha="center", color=INK)
