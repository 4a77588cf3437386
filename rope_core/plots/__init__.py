"""Figures of ropes: wavelengths, scores, differences, a diagnosis. Needs `rope-service[plot]`.

Each function returns Axes of matplotlib and changes no setting of matplotlib, which is imported
when a figure is drawn.
"""

from rope_core.plots.comparison_plot import compare
from rope_core.plots.diagnosis_plot import diagnosis
from rope_core.plots.figure import save
from rope_core.plots.score_plot import score
from rope_core.plots.wavelength_plot import wavelengths

__all__ = ["compare", "diagnosis", "save", "score", "wavelengths"]
