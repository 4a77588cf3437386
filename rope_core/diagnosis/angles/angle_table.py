"""Measured angles: what a rotation or a table does to each pair of each token."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AngleTable:
    """Measured gain * exp(i angle) of each pair, at a sample of the tokens."""

    z: Tensor
    """complex128 `[T, n]`, 0 where nothing is known."""

    weights: Tensor
    """float64 `[T, n]`: energy of what was rotated, 0 where nothing is known; 1 of a table."""

    positions: Tensor
    """float64 `[A, T]`: the given positions of these tokens."""

    index: Tensor
    """int64 `[T]`: these tokens in `RotaryCall.positions`, for `predict(call, table.index)`."""

    tolerance: float
    """Largest relative error that is not a difference."""

    misfit: float = 0.0
    """Energy of the evidence that no angles explain."""

    rest: float = 0.0
    """Energy of the channels that are not rotated."""

    def relative_error(self, predicted: Tensor) -> float:
        """Return |evidence - predicted| / |predicted|, of complex128 `[T, n]`."""
        if predicted.shape != self.z.shape:
            return float("inf")
        scale = self.weights.sqrt()
        wrong = _energy((self.z - predicted) * scale) + self.misfit
        right = _energy(predicted * scale) + self.rest
        return (wrong / right) ** 0.5 if right else float("inf")

    def noise(self) -> float:
        """Return the relative error that the magnitudes show: the rounding of the evidence."""
        total = float(self.weights.sum())
        if not total:
            return 0.0
        gain = float((self.z.abs() * self.weights).sum()) / total
        spread = float(((self.z.abs() - gain).square() * self.weights).sum() / total)
        return spread**0.5 / gain if gain else 0.0


def _energy(x: Tensor) -> float:
    flat = torch.view_as_real(x).flatten()
    return float(flat.dot(flat))
