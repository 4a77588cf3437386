"""Where two ropes differ: the ratio of their frequencies, and the cosine of a vector."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rope_core.comparison.compare import compare as compare_ropes
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import Lengths
from rope_core.plots.envelope import draw_envelope
from rope_core.plots.figure import (
    GREEN,
    INK,
    ORANGE,
    PAPER,
    TEXT,
    EdgeLabel,
    draw_frame,
    label_right,
    logarithmic,
    new_axes,
)
from rope_core.plots.lower_axes import MAX_MARKERS, prepare_pairs, prepare_positions
from rope_core.plots.number_text import MINUS, number_text
from rope_core.plots.rope_names import rope_name
from rope_core.plots.similarity import last_position, rotated_cosine
from rope_core.sources import RopeSource, resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def compare(a: RopeSource, b: RopeSource) -> tuple["Axes", "Axes"]:
    """Draw where two ropes differ.

    The left Axes have the frequency of `b` as a multiple of that of `a`, by pair. The right ones
    have the cosine of a vector rotated by `a` and the same vector rotated by `b`, by position, in
    the mean over vectors: layout, rotated width, direction and frequencies count, a gain does not.

    Raises:
        ConfigError: one of the two is no rope or does not rotate, or their head_dim differs.
        ImportError: matplotlib is not installed.
    """
    resolved, resolved_b = resolve(a), resolve(b)
    rope, other = resolved.require_rope(), resolved_b.require_rope()
    if rope.head_dim != other.head_dim:
        raise ConfigError("b", f"of head_dim {rope.head_dim}, as a is", other.head_dim)
    left, right = new_axes(2, 6.4, 4.9, are_named=True)
    found = compare_ropes(a, b)
    title = f"A: {rope_name(a, resolved)}    B: {rope_name(b, resolved_b)}"
    draw_frame(left, title, found.summary, "frequency of B, as a multiple of that of A")
    _draw_ratio(left, found.tensors["inv_freq"], found.tensors["inv_freq_other"])
    draw_frame(right, "", "", "cosine of a vector rotated by A and the same rotated by B")
    _draw_cosine(right, rope, other, resolved.lengths)
    return left, right


def ratio_text(ratio: float) -> str:
    """Write a ratio as a factor or as a divisor: \u00d7 8, \u00f7 8."""
    return f"\u00d7 {number_text(ratio)}" if ratio >= 1 else f"\u00f7 {number_text(1 / ratio)}"


def _draw_ratio(ax: "Axes", inv_freq: Tensor, other: Tensor) -> None:
    """Draw the ratio of the frequencies of the pairs that both ropes have and rotate."""
    from matplotlib.ticker import FuncFormatter

    num_pairs = min(len(inv_freq), len(other))
    of_a, of_b = inv_freq[:num_pairs].double(), other[:num_pairs].double()
    pairs = ((of_a != 0) & (of_b != 0)).nonzero()[:, 0]
    ratios = (of_b[pairs] / of_a[pairs]).abs().tolist()
    low, high = min(*ratios, 0.5), max(*ratios, 2.0)
    logarithmic(ax, ax.yaxis, low / 1.3, high * 1.3)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ratio_text(value)))
    prepare_pairs(ax, num_pairs, "pair")
    ax.axhline(1, color=INK, linewidth=1.0, label="_equal")
    size = 4.2 if num_pairs <= MAX_MARKERS else 0.0
    ax.plot(
        pairs.tolist(),
        ratios,
        color=ORANGE,
        linewidth=1.8,
        marker="o",
        markersize=size,
        label="B / A",
    )
    label_right(ax, [EdgeLabel(ratios[-1], ratio_text(ratios[-1]), ORANGE, bold=True)])


def _draw_cosine(ax: "Axes", rope: RopeConfig, other: RopeConfig, lengths: Lengths) -> None:
    """Draw the cosine by position, with its value at the lengths of the model."""
    last = last_position(rope, lengths.allowed)
    prepare_positions(ax, last, "position", lengths)
    envelope = rotated_cosine(rope, other, last)
    draw_envelope(ax, envelope, "cosine", GREEN, "-")
    ax.set_ylim(min(0.0, float(envelope.lowest.min())) - 0.05, 1.05)
    ends = [length for length in (lengths.trained, last) if length is not None and length <= last]
    for position in ends:
        point = int(torch.searchsorted(envelope.position, position, right=True)) - 1
        value = float(envelope.mean[point])
        ax.plot(position, value, "o", color=GREEN, markersize=4.2, label="_value", clip_on=False)
        ax.annotate(
            f"{value:.2f}".replace("-", MINUS),
            (position, value),
            (7, 0),
            textcoords="offset points",
            annotation_clip=False,
            va="center",
            fontsize=TEXT,
            color=GREEN,
            fontweight="bold",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
        )
