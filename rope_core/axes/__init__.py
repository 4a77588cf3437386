"""Schemes of several axes: which axis of a position drives which angle, and with what frequency.

A scheme takes the frequencies of the model's variant for one axis, the number of channels `dim`
that it rotates, and its own parameters by keyword. It returns a `FrequencyTable`: the frequency and
the axis of each angle. Positions have their axes first, `[A, tokens]`. `SCHEMES` has all schemes by
name.
"""

from rope_core.axes import axial, coordinates, mrope
from rope_core.axes.frequency_table import AxisFrequencies, FrequencyTable, learned_frequencies
from rope_core.registry import register

__all__ = ["SCHEMES", "AxisFrequencies", "FrequencyTable", "learned_frequencies"]

SCHEMES = register(
    (
        mrope.mrope,
        mrope.mrope_interleaved,
        mrope.mrope_hw_t,
        mrope.alternating,
        mrope.xdrope,
        axial.axial,
        axial.axial_ntk,
        axial.axial_alternating,
        axial.axial_split,
        axial.axial_centred,
        axial.axial_log,
        axial.axial_pixel,
        coordinates.atoms,
        coordinates.timestamps,
        coordinates.interpolated,
    )
)
"""Every scheme by name."""
