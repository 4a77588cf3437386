"""What the figures have in common: colours, a frame without lines, and names beside the axes."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rope_core.errors import ConfigError
from rope_core.plots.number_text import decade_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PAPER, GROUND, LINE, GRID = "#ffffff", "#f4f5f5", "#c9cdcf", "#e9eaea"
INK, INK_2, INK_3 = "#16191d", "#4a525c", "#6b737d"
BLUE, ORANGE, GREEN = "#0060a8", "#b3560b", "#007a5a"
VIOLET, VIOLET_GROUND, BLUE_GROUND = "#5b4a9a", "#f1eff8", "#e9f1f8"

LEFT, RIGHT, TOP, BOTTOM = 0.72, 1.42, 0.98, 0.62
"""Room around Axes, in inches."""

NAME_LINE = 22
"""Height of the names of several Axes, in points."""

TEXT = 9.0
"""Size of text, in points."""

FORMATS = ("svg", "png", "pdf")
"""Formats of a file, by its suffix."""


def new_axes(
    columns: int, panel_width: float, height: float, *, are_named: bool = False
) -> tuple["Axes", ...]:
    """Return Axes of a new figure, side by side, with room for names around each; in inches.

    Args:
        columns: number of Axes.
        panel_width: width of each, with its names.
        height: height of the figure.
        are_named: whether each of them has a name of its own.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib, which is not installed: pip install 'rope-service[plot]'"
        ) from error
    width = columns * panel_width
    figure = pyplot.figure(figsize=(width, height), facecolor=PAPER)
    inner = (panel_width - LEFT - RIGHT) / width
    top = TOP + (NAME_LINE / 72 if are_named else 0)
    bottom, inner_height = BOTTOM / height, (height - BOTTOM - top) / height
    return tuple(
        figure.add_axes(((i * panel_width + LEFT) / width, bottom, inner, inner_height))
        for i in range(columns)
    )


def draw_frame(ax: "Axes", title: str, subtitle: str, name: str = "") -> None:
    """Prepare empty Axes: no box, light horizontal lines, the title and a line below it.

    The name of the Axes, if there is one, is the next line.
    """
    ax.set_facecolor(PAPER)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    ax.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=INK_2, pad=5)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    lift = NAME_LINE if name else 0
    ax.set_title(title, loc="left", pad=40 + lift, fontsize=13, fontweight="bold", color=INK)
    above(ax, subtitle, 0.0, 26 + lift, color=INK_2, fontsize=TEXT + 0.5)
    above(ax, name, 0.0, 22, color=INK, fontweight="bold")


def size_points(ax: "Axes") -> tuple[float, float]:
    """Return width and height of Axes in points."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "Axes are in a figure"
    extent = ax.get_window_extent()
    return extent.width / figure.dpi * 72, extent.height / figure.dpi * 72


def above(ax: "Axes", text: str, x: float, points: float, **style: Any) -> None:
    """Write `text` `points` above the Axes, at a share `x` of their width."""
    ax.annotate(
        text,
        (x, 1.0),
        (0, points),
        xycoords="axes fraction",
        textcoords="offset points",
        annotation_clip=False,
        **{"fontsize": TEXT, "va": "bottom", "ha": "left", **style},
    )


def logarithmic(ax: "Axes", axis: "Axis", low: float, high: float) -> None:
    """Make an axis logarithmic, with labelled decades from `low` to `high`."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    set_scale: Callable[[str], None] = ax.set_yscale if axis is ax.yaxis else ax.set_xscale
    set_limits: Callable[[float, float], Any] = ax.set_ylim if axis is ax.yaxis else ax.set_xlim
    set_scale("log")
    set_limits(low, high)
    ticks = [10.0**power for power in range(-12, 16) if low <= 10.0**power <= high]
    if len(ticks) < 3:
        powers = (10.0**power for power in range(-12, 16))
        ticks = [n * power for power in powers for n in (1, 2, 5) if low <= n * power <= high]
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 8) or 1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: decade_text(value)))


@dataclass(frozen=True, slots=True)
class EdgeLabel:
    """A name to the right of the Axes, at the height of what it names."""

    y: float
    """In units of the data."""

    text: str
    color: str
    bold: bool = False


def label_right(ax: "Axes", labels: Iterable[EdgeLabel]) -> None:
    """Write names to the right of the Axes, moved apart where they would overlap."""
    labels = sorted(labels, key=lambda label: label.y)
    to_display, to_axes = ax.transData, ax.transAxes.inverted()
    heights = [to_axes.transform(to_display.transform((1, label.y)))[1] for label in labels]
    line = TEXT * 1.45 / size_points(ax)[1]
    sizes = [line] * len(labels)
    for label, y in zip(labels, spread(heights, sizes, 0.0, 1.06), strict=True):
        ax.annotate(
            label.text,
            (1.0, y),
            (7, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            va="center",
            fontsize=TEXT,
            color=label.color,
            fontweight="bold" if label.bold else "normal",
        )


def spread(
    centres: Sequence[float], sizes: Sequence[float], low: float, high: float
) -> list[float]:
    """Return `centres`, in ascending order, moved so that intervals of `sizes` do not overlap."""
    placed: list[float] = []
    end = low
    for centre, size in zip(centres, sizes, strict=True):
        placed.append(max(centre, end + size / 2))
        end = placed[-1] + size / 2
    end = max(high, low + sum(sizes))
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], end - sizes[i] / 2)
        end = placed[i] - sizes[i] / 2
    return placed


def save(ax: "Axes", path: str | os.PathLike[str]) -> None:
    """Write the figure of `ax` to a file: svg, png or pdf, by its suffix.

    Raises:
        ConfigError: the suffix is another.
    """
    from matplotlib import rc_context

    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        expected = f"a file name that ends in {', '.join(f'.{name}' for name in FORMATS)}"
        raise ConfigError("path", expected, os.fspath(path))
    figure = ax.get_figure(root=True)
    assert figure is not None, "Axes are in a figure"
    with rc_context({"svg.fonttype": "none"}):  # texts stay texts
        metadata = {"Title": ax.get_title(loc="left")}
        figure.savefig(path, format=suffix, dpi=160, metadata=metadata)
