"""The score of a query with an equal key, by their distance."""

from typing import TYPE_CHECKING

from rope_core.plots.envelope import draw_envelope
from rope_core.plots.figure import BLUE, ORANGE, EdgeLabel, draw_frame, label_right, new_axes
from rope_core.plots.lower_axes import prepare_positions
from rope_core.plots.rope_names import rope_name
from rope_core.plots.similarity import last_position, self_score
from rope_core.scaling import unscaled
from rope_core.sources import RopeSource, resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUBTITLE = "score of a query with an equal key, as a share of the score at distance 0"


def score(rope: RopeSource, ax: "Axes | None" = None) -> "Axes":
    """Draw the score of a query with an equal key by their distance, in the mean over vectors.

    The line is the mean over the positions that a point of the figure stands for, the band reaches
    from the lowest to the highest. The dashed line has no scaling. Vectors of a trained model weigh
    the pairs in other ways.

    Args:
        rope: any form that `resolve` takes.
        ax: Axes to draw into; None for those of a new figure.

    Raises:
        ConfigError: `rope` is no rope, or does not rotate.
        ImportError: matplotlib is not installed.
    """
    resolved = resolve(rope)
    config = resolved.require_rope()
    ax = new_axes(1, 8.2, 4.6)[0] if ax is None else ax
    last = last_position(config, resolved.lengths.allowed)
    draw_frame(ax, rope_name(rope, resolved), SUBTITLE)
    plain = unscaled(config)
    curves = [("as configured", config, BLUE, "-")]
    if not plain.inv_freq.equal(config.inv_freq):
        curves.insert(0, ("without scaling", plain, ORANGE, "--"))
    prepare_positions(ax, last, "distance between query and key, in positions", resolved.lengths)
    labels, lowest = [], 0.0
    for name, of_curve, color, linestyle in curves:
        envelope = self_score(of_curve, last)
        draw_envelope(ax, envelope, name, color, linestyle)
        labels.append(EdgeLabel(float(envelope.mean[-1]), name, color, bold=True))
        lowest = min(lowest, float(envelope.lowest.min()))
    ax.set_ylim(lowest - 0.05, 1.05)
    ax.set_yticks([-0.5, 0.0, 0.5, 1.0] if lowest < -0.45 else [0.0, 0.5, 1.0])
    if len(curves) > 1:
        label_right(ax, labels)
    return ax
