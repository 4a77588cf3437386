"""Schemes of several axes: which axis of a position drives which angle, and with what frequency.

A scheme takes the model's one-axis `Spectra`, the number of channels `dim` it rotates, and its own
parameters by keyword. It returns `Columns`: the frequency and the axis of each angle. Positions
have their axes first, `[A, tokens]`. `SCHEMES` has all schemes by name.
"""

from rope_core.axes import points, spatial, text
from rope_core.axes.columns import Columns, Spectra, summed
from rope_core.registry import register

__all__ = ["SCHEMES", "Columns", "Spectra", "summed"]

SCHEMES = register(
    (
        text.mrope,
        text.mrope_interleaved,
        text.mrope_hw_t,
        text.alternating,
        text.xdrope,
        spatial.axial,
        spatial.axial_ntk,
        spatial.axial_alternating,
        spatial.axial_split,
        spatial.axial_centred,
        spatial.axial_log,
        spatial.axial_pixel,
        points.atoms,
        points.timestamps,
        points.interpolated,
    )
)
"""Every scheme by name."""
