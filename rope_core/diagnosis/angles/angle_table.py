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
        difference = torch.view_as_real(self.z - predicted).square().sum(-1)
        energy = torch.view_as_real(predicted).square().sum(-1)
        wrong = float((difference * self.weights).sum()) + self.misfit
        right = float((energy * self.weights).sum()) + self.rest
        return (wrong / right) ** 0.5 if right else float("inf")
