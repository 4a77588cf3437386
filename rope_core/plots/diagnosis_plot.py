"""What a diagnosis has measured: frequencies, and errors by pair and by token."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from rope_core.diagnosis.result import Diagnosis
from rope_core.errors import ConfigError
from rope_core.plots.figure import (
    BLUE,
    INK,
    ORANGE,
    PAPER,
    EdgeLabel,
    draw_frame,
    label_right,
    logarithmic,
    new_axes,
)
from rope_core.plots.lower_axes import MAX_MARKERS, prepare_pairs
from rope_core.plots.number_text import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_TITLE = 150
"""Characters of the line below the title."""


def diagnosis(found: Diagnosis) -> tuple["Axes", ...]:
    """Draw the measured frequencies beside the expected ones, and the errors by pair and token.

    The title is the verdict. Axes whose tensors the diagnosis does not have are left out.

    Raises:
        ConfigError: the diagnosis has none of these tensors, as that of an attention.
        ImportError: matplotlib is not installed.
    """
    drawn: list[Callable[[Axes, str, str], None]] = []
    tensors = found.tensors
    if "inv_freq" in tensors and "inv_freq_expected" in tensors:
        frequencies = tensors["inv_freq"], tensors["inv_freq_expected"]
        drawn.append(lambda ax, *title: _draw_frequencies(ax, *frequencies, *title))
    for unit in ("pair", "position"):
        if f"error_by_{unit}" in tensors:
            drawn.append(lambda ax, *title, unit=unit: _draw_error(ax, found, unit, *title))
    if not drawn:
        raise ConfigError("found", "a diagnosis of a rotation, a table or frequencies", "another")
    axes = new_axes(len(drawn), 6.0, 4.9, are_named=True)
    best = found.explanations[:1]
    text = " ".join(mistake.text for explanation in best for mistake in explanation.mistakes)
    titles = (found.verdict.capitalize(), text[:MAX_TITLE])
    for draw, ax in zip(drawn, axes, strict=True):
        draw(ax, *(titles if ax is axes[0] else ("", "")))
    return axes


def _draw_frequencies(
    ax: "Axes", measured: Tensor, expected: Tensor, title: str, subtitle: str
) -> None:
    """Draw positions for one turn, as measured and as expected."""
    draw_frame(ax, title, subtitle, "positions for one turn of each pair")
    rows = {"expected": (expected, BLUE, "-", BLUE), "measured": (measured, ORANGE, "--", PAPER)}
    turns = {
        name: {
            pair: 2 * math.pi / abs(frequency)
            for pair, frequency in enumerate(row.tolist())
            if frequency and not math.isnan(frequency)
        }
        for name, (row, *_) in rows.items()
    }
    every = [turn for by_pair in turns.values() for turn in by_pair.values()]
    logarithmic(ax, ax.yaxis, min(every, default=1.0) / 1.7, max(every, default=10.0) * 1.7)
    prepare_pairs(ax, max(len(measured), len(expected)), "pair")
    labels = []
    for name, (row, color, linestyle, face) in rows.items():
        by_pair = turns[name]
        ax.plot(
            [*by_pair],
            [*by_pair.values()],
            color=color,
            linestyle=linestyle,
            linewidth=1.8,
            marker="o",
            markersize=4.2 if len(row) <= MAX_MARKERS else 0.0,
            markerfacecolor=face,
            label=name,
        )
        if by_pair:
            labels.append(EdgeLabel([*by_pair.values()][-1], name, color, bold=True))
    label_right(ax, labels)


def _draw_error(ax: "Axes", found: Diagnosis, unit: str, title: str, subtitle: str) -> None:
    """Draw the relative error of each pair or token, beside the tolerance."""
    error = found.tensors[f"error_by_{unit}"].double().flatten()
    tolerance = found.error.tolerance
    low = tolerance / 100
    numbers = [max(number, low) for number in error.nan_to_num(0.0, 0.0, 0.0).tolist()]
    name = "token" if unit == "position" else unit
    draw_frame(ax, title, subtitle, f"relative error of each {name}")
    logarithmic(ax, ax.yaxis, low, max(*numbers, tolerance) * 3)
    prepare_pairs(ax, len(numbers), name)
    are_few = len(numbers) <= MAX_MARKERS
    ax.fill_between(range(len(numbers)), low, numbers, color=ORANGE, alpha=0.12, linewidth=0)
    ax.plot(
        [*range(len(numbers))],
        numbers,
        color=ORANGE,
        linewidth=1.4,
        marker="o",
        markersize=3.6 if are_few else 0.0,
        label="error",
    )
    ax.axhline(tolerance, color=INK, linewidth=1.0, label="_tolerance")
    label_right(ax, [EdgeLabel(tolerance, f"tolerance {number_text(tolerance)}", INK)])
