"""How many positions each pair takes for one turn."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import LayerKind, Lengths, Resolved
from rope_core.pairs import SEVERAL_AXES, axis_names, pair_axis
from rope_core.plots.bands import draw_bands, find_bands
from rope_core.plots.figure import (
    BLUE,
    GREEN,
    INK,
    INK_2,
    INK_3,
    ORANGE,
    PAPER,
    TEXT,
    VIOLET,
    EdgeLabel,
    draw_frame,
    label_right,
    logarithmic,
    new_axes,
)
from rope_core.plots.lower_axes import MAX_MARKERS, prepare_pairs
from rope_core.plots.number_text import number_text
from rope_core.plots.rope_names import pair_label, rope_name
from rope_core.scaling import exact_frequencies, unscaled
from rope_core.sources import RopeSource, layer_kinds, resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUBTITLE = "positions for one turn of each pair"

MAX_KINDS = 3
"""Largest number of kinds of layers in one figure."""

AXIS_STYLES = ((BLUE, "o"), (GREEN, "s"), (VIOLET, "^"), (INK_2, "D"), (INK_3, "v"))
"""Color and marker of the pairs of each axis of a position."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A row of frequencies, and how to draw it."""

    name: str
    frequencies: Tensor
    color: str
    linestyle: str
    is_filled: bool

    @property
    def turns(self) -> dict[int, float]:
        """Positions for one turn of each pair that turns."""
        frequencies = enumerate(self.frequencies.abs().tolist())
        return {pair: 2 * math.pi / frequency for pair, frequency in frequencies if frequency}


def wavelengths(rope: RopeSource, ax: "Axes | None" = None) -> "Axes":
    """Draw how many positions each pair takes for one turn, beside the lengths of the model.

    Pairs that the scaling keeps, blends and divides are named above. The dashed line has no
    scaling. If the frequencies depend on the length of a call, a dotted line is that of long calls.
    Pairs at rest are ticks on the lower edge.

    Args:
        rope: any form that `resolve` takes.
        ax: Axes to draw into. None: a new figure, with Axes for each of the first three kinds of
            layers that rotate; the first Axes are returned.

    Raises:
        ConfigError: `rope` is no rope, or does not rotate.
        ImportError: matplotlib is not installed.
    """
    if ax is not None:
        resolved = resolve(rope)
        draw_wavelengths(ax, resolved, rope_name(rope, resolved), SUBTITLE, _range(resolved))
        return ax
    kinds = [kind for kind in layer_kinds(rope) if kind.resolved.rope is not None][:MAX_KINDS]
    if not kinds:
        raise ConfigError("rope", "that of a model with a layer that rotates", "one without")
    axes = new_axes(len(kinds), 8.2 if len(kinds) == 1 else 6.2, 4.9)
    lows, highs = zip(*(_range(kind.resolved) for kind in kinds), strict=True)
    for panel, kind in zip(axes, kinds, strict=True):
        name = rope_name(rope, kind.resolved) if panel is axes[0] else ""
        subtitle = SUBTITLE if len(kinds) == 1 else f"{_layers_text(kind)}: {SUBTITLE}"
        draw_wavelengths(panel, kind.resolved, name, subtitle, (min(lows), max(highs)))
    return axes[0]


def draw_wavelengths(
    ax: "Axes", resolved: Resolved, title: str, subtitle: str, limits: tuple[float, float]
) -> None:
    """Draw the wavelengths of one layer, between limits in positions."""
    rope = resolved.require_rope()
    curves = [*_curves(rope, resolved.lengths)]
    draw_frame(ax, title, subtitle)
    logarithmic(ax, ax.yaxis, limits[0] / 1.7, limits[1] * 1.7)
    prepare_pairs(ax, rope.half, pair_label(rope))
    if rope.num_axes == 1:
        draw_bands(ax, find_bands(rope))
    labels = [*_draw_lengths(ax, resolved.lengths)]
    for curve in curves:
        if curve is curves[-1] and rope.num_axes > 1:
            _draw_axes_of_positions(ax, rope, curve)
        else:
            _plot(ax, curve, [*range(rope.half)], curve.name, curve.color, "o")
        if len(curves) > 1 and curve.turns:
            labels.append(
                EdgeLabel([*curve.turns.values()][-1], curve.name, curve.color, bold=True)
            )
    label_right(ax, labels)


def _range(resolved: Resolved) -> tuple[float, float]:
    """Return the least and the greatest number of positions to draw."""
    curves = _curves(resolved.require_rope(), resolved.lengths)
    turns = [turn for curve in curves for turn in curve.turns.values()]
    return min(turns, default=1.0), max(*turns, resolved.lengths.allowed or 0, 10.0)


def _curves(rope: RopeConfig, lengths: Lengths) -> Iterator[Curve]:
    """Yield the rows to draw; the last is that of `rope` itself."""
    frequencies, plain = exact_frequencies(rope), exact_frequencies(unscaled(rope))
    if not plain.equal(frequencies):
        yield Curve("without scaling", plain, ORANGE, "--", is_filled=False)
    name = "as configured"
    dependence = rope.length_dependence
    if rope.needs_length and dependence is not None:
        above = dependence.above
        length = max(above + 1, 2 * above, lengths.allowed or 0)
        longer = exact_frequencies(rope.for_length(length))
        if not longer.equal(frequencies):
            name = f"calls up to {number_text(above)}"
            is_alike = dependence.longer_calls == "alike"
            calls = f"above {number_text(above)}" if is_alike else f"of {number_text(length)}"
            yield Curve(f"calls {calls}", longer, BLUE, ":", is_filled=False)
    yield Curve(name, frequencies, BLUE, "-", is_filled=True)


def _draw_axes_of_positions(ax: "Axes", rope: RopeConfig, curve: Curve) -> None:
    """Draw the pairs of each axis with a marker of its own, and a legend."""
    axis_of_pair = pair_axis(rope).tolist()
    for axis, name in (*enumerate(axis_names(rope)), (SEVERAL_AXES, "several axes")):
        pairs = [pair for pair, its_axis in enumerate(axis_of_pair) if its_axis == axis]
        color, marker = AXIS_STYLES[axis % len(AXIS_STYLES)]
        if pairs:
            _plot(ax, curve, pairs, f"{name}, {len(pairs)} pairs", color, marker)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.985),
        ncols=rope.num_axes,
        frameon=False,
        fontsize=TEXT,
        labelcolor=INK_2,
        handlelength=1.2,
        columnspacing=1.6,
    )


def _plot(ax: "Axes", curve: Curve, pairs: list[int], name: str, color: str, marker: str) -> None:
    turning = [pair for pair in pairs if pair in curve.turns]
    ax.plot(
        turning,
        [curve.turns[pair] for pair in turning],
        color=color,
        linestyle=curve.linestyle,
        linewidth=2.0 if curve.is_filled else 1.5,
        marker=marker,
        markersize=4.4 if len(curve.frequencies) <= MAX_MARKERS else 0.0,
        markerfacecolor=color if curve.is_filled else PAPER,
        markeredgecolor=color,
        markeredgewidth=1.1,
        label=name,
        zorder=3 if curve.is_filled else 2.5,
    )
    resting = [pair for pair in pairs if pair not in curve.turns]
    if resting:  # an empty line would have a place in the layout
        ax.plot(
            resting,
            [ax.get_ylim()[0]] * len(resting),
            color=color,
            linestyle="",
            marker="_",
            markersize=4,
            markeredgewidth=3,
            clip_on=False,
            label="_at rest",
        )


def _draw_lengths(ax: "Axes", lengths: Lengths) -> Iterator[EdgeLabel]:
    """Draw a line at the trained and at the allowed length; yield their names."""
    trained, allowed = lengths.trained, lengths.allowed
    names = {"allowed": allowed, "trained": trained}
    if trained == allowed:
        del names["allowed"]
    for name, length in names.items():
        if length is not None:
            ax.axhline(length, color=INK, linewidth=1.0, zorder=2, label=f"_{name}")
            yield EdgeLabel(length, f"{name} {number_text(length)}", INK)
    if allowed is not None and allowed < ax.get_ylim()[1] / 2:
        ax.annotate(
            "above this line: no whole turn",
            (0.0, allowed),
            (6, 4),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=TEXT - 1,
            color=INK_3,
        )


def _layers_text(kind: LayerKind) -> str:
    layers, layer_type = kind.layers, kind.resolved.layer_type
    count = f"{len(layers)} layers" if len(layers) != 1 else "1 layer"
    return f"{count}, {layer_type}" if layer_type else count
