"""A rotation as evidence: what went in and what came out, with the positions of the tokens."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.calls import RotaryCall, predict
from rope_core.diagnosis.difference import pieces
from rope_core.diagnosis.rotation.geometry import energy_and_products, geometry, rotate_by
from rope_core.diagnosis.sample import TOKENS, choose_heads, choose_tokens

MAX_AXIS_TOKENS = 32
"""Tokens of each head, or of each row, where positions run along heads or rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RotationEvidence:
    """`before` and `after`, all tokens one after the other."""

    before: Tensor
    """`[T, H, D]`."""

    after: Tensor
    """As before."""

    positions: Tensor
    """float64 `[A, T]`."""

    shape: tuple[int, int, int]
    """B, S, H."""

    tolerance: float

    used: Tensor
    """bool `[T]`: tokens that are not all 0."""

    also: tuple[int, ...] = ()
    """Tokens that the sample has in any case."""

    size: int = TOKENS
    """Tokens of the sample, about."""

    _samples: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False)

    def along(self, axis: str, x: Tensor) -> Tensor:
        """Return `x` `[T, H, D]` with the axis of the positions first: `[., ., D]`."""
        if axis == "heads":
            return x.transpose(0, 1)
        return x.reshape(self.shape[0], -1, x.shape[-1]) if axis == "batch" else x

    def sample(self, axis: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sample for positions along an axis: index, before and after, float64."""
        if axis not in self._samples:
            self._samples[axis] = self._choose(axis)
        return self._samples[axis]

    def _choose(self, axis: str) -> tuple[Tensor, Tensor, Tensor]:
        before, after = (self.along(axis, x) for x in (self.before, self.after))
        if axis == "tokens":
            index = choose_tokens(
                self.positions, self.shape[0], self.used, *self.also, count=self.size
            )
            before, after = before[index], after[index]
            others = choose_heads(before)
        else:
            count = before.shape[1]
            others = torch.linspace(0, count - 1, min(count, MAX_AXIS_TOKENS)).long()
            index = torch.arange(len(before))
        return index, before[:, others].double(), after[:, others].double()

    def width(self) -> int | None:
        """Return how many channels at one end of a head change, None if none or both ends do."""
        _, before, after = self.sample("tokens")
        moved = (before != after).flatten(0, -2).any(0).nonzero().flatten()
        channels = before.shape[-1]
        if not len(moved):
            return None
        first, last = int(moved[0]), int(moved[-1])
        width = last + 1 if last + 1 < channels else channels - first
        return None if width == channels else width + width % 2

    def angle_table(self, call: RotaryCall) -> AngleTable:
        """Return the angles of the sample, if pairs are those of `call`."""
        index, before, after = self.sample(call.position_axis)
        z, weights, misfit, rest = energy_and_products(before, after, geometry(call))
        positions = self.positions if call.position_axis == "tokens" else call.positions
        return AngleTable(
            z=z,
            weights=weights,
            positions=positions[:, index],
            index=index,
            tolerance=self.tolerance,
            misfit=misfit,
            rest=rest,
        )

    def sample_error(self, call: RotaryCall, count: int | None = None) -> float:
        """Return |after - reproduced| / |reproduced| of the sample, or of about `count` tokens."""
        sample = self.sample(call.position_axis)
        step = 1 if count is None else max(1, len(sample[0]) // count)
        index, before, after = (t[::step] for t in sample)
        reproduced = reproduce(call, before, index)
        return _relative((after - reproduced).square().sum(), reproduced.square().sum())

    def gain(self, call: RotaryCall) -> float | None:
        """Return the factor of the rotated channels that fits the sample best, if it is above 0."""
        index, before, after = self.sample(call.position_axis)
        write = geometry(call).write.flatten()
        given = reproduce(replace(call, gain=1.0), before, index)[..., write]
        energy = float(given.square().sum())
        product = float((given * after[..., write]).sum())
        return product / energy if product > 0 and energy else None

    def error(self, call: RotaryCall) -> float:
        """Return |after - reproduced| / |reproduced| of all tokens."""
        before, after = (self.along(call.position_axis, x) for x in (self.before, self.after))
        wrong = right = torch.zeros((), dtype=torch.float64)
        for x, y, index in pieces(before, after, torch.arange(len(before))):
            reproduced = reproduce(call, x.float(), index).double()
            wrong = wrong + (y.double() - reproduced).square().sum()
            right = right + reproduced.square().sum()
        return _relative(wrong, right)


def reproduce(call: RotaryCall, before: Tensor, index: Tensor) -> Tensor:
    """Return what `call` makes of tokens: `[T', H, D]`, index `[T']`."""
    if call.is_repeated:
        first, second = replace(call, times=1, permutation=None), replace(call, times=1)
        return reproduce(second, reproduce(first, before, index), index)
    return rotate_by(before, predict(call, index), geometry(call))


def _relative(wrong: Tensor, right: Tensor) -> float:
    return float((wrong / right).sqrt()) if right > 0 else float("inf")
