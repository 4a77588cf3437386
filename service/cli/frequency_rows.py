"""The frequencies of a resolved rope, one row for each pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rope_core.scaling import Band
from service.wire import Message

EQUAL = 1e-5
"""Relative difference up to which two divisors are equal: frequencies may be float32."""


@dataclass(frozen=True, slots=True)
class FrequencyRow:
    """How fast a pair turns."""

    pair: int
    axis: int | None
    """Axis of the position; None if a position is one number."""

    frequency: float
    """Radians per position."""

    divisor: float | None
    """Of the frequency without scaling; None if the variant scales nothing."""

    turns: float | None
    """Within the trained length; None if the length is not known."""

    band: Band | None
    """What the scaling does to the pair."""

    @property
    def positions_per_turn(self) -> float:
        """Positions of one turn; infinite for a pair that does not turn."""
        return 2 * math.pi / abs(self.frequency) if self.frequency else math.inf


def frequency_rows(answer: Message) -> list[FrequencyRow]:
    """Return the rows of an answer of `/v1/resolve`; none for a layer that does not rotate."""
    tensors, values = answer.tensors, answer.params.values
    if "inv_freq" not in tensors:
        return []
    frequencies = tensors["inv_freq"].double().tolist()
    unscaled = tensors["inv_freq_unscaled"].double().tolist()
    scaling, trained = values["scaling"], values["lengths"]["trained"]
    is_scaled = scaling["blended"] + scaling["divided"] > 0
    has_axes = values["num_axes"] > 1 and len(tensors["pair_axis"]) == len(frequencies)
    axes = tensors["pair_axis"].tolist() if has_axes else [None] * len(frequencies)
    rows = []
    for pair, frequency in enumerate(frequencies):
        divisor = unscaled[pair] / frequency if is_scaled and frequency else None
        turns = None if trained is None else trained * abs(frequency) / (2 * math.pi)
        band = None if divisor is None else _band(divisor, scaling["factor"])
        rows.append(FrequencyRow(pair, axes[pair], frequency, divisor, turns, band))
    return rows


def chosen_rows(rows: Sequence[FrequencyRow]) -> list[FrequencyRow]:
    """Return about twenty rows: the first, the last, some between, and the borders of bands."""
    total = len(rows)
    step = max(1, total // 8)
    chosen = {0, 1, 2, 3, total - 2, total - 1, *range(0, total, step)}
    borders = [i for i in range(1, total) if rows[i].band != rows[i - 1].band]
    for border in borders[:4]:
        chosen |= {border - 1, border, border + 1}
    if len(borders) == 2 and borders[1] - borders[0] <= step:
        chosen |= set(range(*borders))
    return [rows[i] for i in sorted(chosen) if 0 <= i < total]


def _band(divisor: float, factor: float) -> Band:
    if math.isclose(divisor, 1.0, rel_tol=EQUAL):
        return "kept"
    if math.isclose(divisor, factor, rel_tol=EQUAL):
        return "divided"
    return "blended"
