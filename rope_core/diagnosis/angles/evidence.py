"""What angles or frequencies show, in the form that numbers are fitted to."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rope_core.axes.frequency_table import multiply
from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.work import Work
from rope_core.diagnosis.calls import RotaryCall, predict, rounded
from rope_core.diagnosis.mistakes.changes import with_rope
from rope_core.errors import ConfigError

Array = np.ndarray[Any, np.dtype[np.float64]]
"""float64. Arrays of NumPy: their operations on few numbers cost less than those of tensors."""

HALF_STEP = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
"""Relative error of rounding to half precision."""

FREQUENT = torch.cat((torch.arange(-512.0, 513.0), torch.tensor([1e3, 2e3, 5e3]))).double()
"""Offsets of positions that are all compared."""

FLOAT32_STEP = 2.0**-24


class Evidence(Protocol):
    """Numbers to which a call is fitted: angles of each token and pair, or a row of frequencies.

    A call's numbers are flat, `[m]`.
    """

    @property
    def work(self) -> Work:
        """How much was computed."""

    @property
    def decided(self) -> int:
        """How many angles, or frequencies, are known."""

    @property
    def tolerance(self) -> float:
        """Largest relative error that is no difference."""

    @property
    def explained(self) -> float:
        """Relative error of an explanation that no other can be 10 times better than."""

    @property
    def weights(self) -> Array:
        """Return how much each number counts, `[m]`."""

    @property
    def shape(self) -> torch.Size:
        """Shape of `numbers`."""

    def numbers(self, call: RotaryCall) -> Tensor:
        """Return what the call gives, as the evidence has it: complex128, or float64."""

    def error(self, numbers: Tensor) -> float:
        """Return the relative error of the evidence from `numbers`; infinite if sizes differ."""

    def smooth(self, call: RotaryCall) -> Array:
        """Return what is linear in the fitted numbers, `[m]`, without any rounding."""

    def residual(self, smooth: Array) -> Array:
        """Return how far the evidence is from `smooth`."""

    def likeness(self, residual: Array) -> Array:
        """Return 1 where there is no residual, and 0 on average where it is random."""

    def least_error(self, residual: Array) -> float:
        """Return a relative error that residuals of at least these sizes, `[m]`, exceed."""

    def offsets(self, call: RotaryCall, count: int) -> list[int]:
        """Return the whole numbers by which positions are off, best first; none if unknown."""

    def noise(self, smooth: Array, step: float) -> Array:
        """Return the standard deviation of the residuals, if angles are rounded by `step`."""


@dataclass(frozen=True, slots=True, eq=False)
class Angles:
    """Angles of tokens; a residual is known up to whole turns."""

    table: AngleTable
    weights: Array
    """`[m]`: mean 1, unless single numbers have nearly all weight."""

    phase: Array
    """`[m]`: the angles, in (-pi, pi]."""

    work: Work

    @classmethod
    def of(cls, table: AngleTable, work: Work) -> "Angles":
        """Return the angles of a table."""
        weights = (table.weights / table.weights.mean().clamp_min(1e-300)).clamp_max(8).flatten()
        return cls(table, weights.numpy(), table.z.angle().flatten().numpy(), work)

    @property
    def decided(self) -> int:
        # tokens of one position have the same angles; at position 0 all are 0
        where, group = torch.unique(self.table.positions, dim=1, return_inverse=True)
        known = self.table.weights.new_zeros((where.shape[1], self.table.z.shape[1]))
        known.index_add_(0, group, self.table.weights)
        return int((known[where.any(0)] > 0).sum())

    @property
    def tolerance(self) -> float:
        return self.table.tolerance

    @property
    def explained(self) -> float:
        return max(self.tolerance / 10, min(10 * self.table.noise(), self.tolerance))

    @property
    def shape(self) -> torch.Size:
        return self.table.z.shape

    def numbers(self, call: RotaryCall) -> Tensor:
        self.work.add(self.table.z.numel())
        return predict(call, self.table.index)

    def error(self, numbers: Tensor) -> float:
        return self.table.relative_error(numbers)

    def smooth(self, call: RotaryCall) -> Array:
        self.work.add(self.table.z.numel())
        return radians(call, self.table.index).numpy().reshape(-1)

    def residual(self, smooth: Array) -> Array:
        return wrap(self.phase - smooth)

    def likeness(self, residual: Array) -> Array:
        return np.cos(residual)

    def least_error(self, residual: Array) -> float:
        energy = self.table.weights.numpy().reshape(-1)
        across = np.sin(np.minimum(np.abs(residual), np.pi / 2))
        right = float(energy.sum()) + self.table.rest
        return float((energy @ across**2 / right) ** 0.5) if right else 0.0

    def offsets(self, call: RotaryCall, count: int) -> list[int]:
        table = in_float64(call).rope.frequency_table
        numbers = self.numbers(call)
        if table.angles is not multiply or numbers.shape != self.shape:
            return []
        # an offset o turns the pair n by o * inv_freq[n]
        likeness = (self.table.z * numbers.conj() * self.table.weights).sum(0)
        turns = (
            FREQUENT[:, None] * table.inv_freq * (-call.times if call.rope.negative else call.times)
        )
        score = (torch.polar(torch.ones_like(turns), -turns) * likeness).real.sum(1)
        best = FREQUENT[score.topk(count + 1).indices].tolist()
        return [round(offset) for offset in best if offset][:count]

    def noise(self, smooth: Array, step: float) -> Array:
        return 0.1 * min(self.tolerance, 0.02) + 1e-6 + np.abs(smooth) * (step + FLOAT32_STEP)


@dataclass(frozen=True, slots=True, eq=False)
class Frequencies:
    """A row of frequencies. Those of the right call are positive, whatever its direction."""

    row: Tensor
    """float64 `[n]`."""

    weights: Array
    """1 for frequencies that are known, `[n]`."""

    tolerance: float
    is_negative: bool
    """Whether the right call turns backwards."""

    work: Work = field(default_factory=Work)

    @classmethod
    def of(cls, row: Tensor, right: RotaryCall, tolerance: float) -> "Frequencies":
        """Return a row of frequencies, float64 `[n]`."""
        known = ((row != 0) & row.isfinite()).double().numpy()
        return cls(row, known, tolerance, right.rope.negative)

    @property
    def decided(self) -> int:
        return int(self.weights.sum())

    @property
    def explained(self) -> float:
        return self.tolerance / 10

    @property
    def shape(self) -> torch.Size:
        return self.row.shape

    def numbers(self, call: RotaryCall) -> Tensor:
        self.work.add(len(self.row))
        inv_freq = call.rope.frequency_table.inv_freq
        if call.frequencies_dtype is not None:
            exact = (
                inv_freq if call.arithmetic_dtype is None else inv_freq.to(call.arithmetic_dtype)
            )
            inv_freq = rounded(exact, call.frequencies_dtype)
        is_reversed = call.rope.negative != self.is_negative
        return inv_freq.double() * (-call.positions[0, 0] if is_reversed else call.positions[0, 0])

    def error(self, numbers: Tensor) -> float:
        if numbers.shape != self.row.shape:
            return float("inf")
        right = float(numbers.norm())
        return float((self.row - numbers).norm()) / right if right else float("inf")

    def smooth(self, call: RotaryCall) -> Array:
        self.work.add(len(self.row))
        logarithm: Array = radians(call, None)[0].abs().clamp_min(1e-300).log().numpy()
        return logarithm

    def residual(self, smooth: Array) -> Array:
        both = (self.weights > 0) & (smooth > -600)
        row = np.log(np.maximum(np.abs(self.row.numpy()), 1e-300))
        return np.where(both, row - smooth, 0)

    def likeness(self, residual: Array) -> Array:
        return np.exp(-(residual**2))

    def least_error(self, residual: Array) -> float:
        wrong = self.row.numpy() * (1 - np.exp(-np.abs(residual)))
        return float(np.linalg.norm(wrong) / max(float(self.row.norm()), 1e-300))

    def offsets(self, call: RotaryCall, count: int) -> list[int]:
        return []

    def noise(self, smooth: Array, step: float) -> Array:
        return np.full_like(smooth, 1e-6 + step)


def radians(call: RotaryCall, index: Tensor | None) -> Tensor:
    """Return the angles of a call without any rounding, float64 `[T, n]`."""
    rope = in_float64(call).rope
    positions = call.positions if index is None else call.positions.index_select(1, index)
    table = rope.frequency_table
    angles: Tensor = table.angles(positions.expand(table.num_axes, -1), table)
    return angles * (-call.times if rope.negative else call.times)


def in_float64(call: RotaryCall) -> RotaryCall:
    """Return the call with exact frequencies."""
    if call.rope.arithmetic == "float64":
        return call
    return with_rope(call, arithmetic="float64")


def in_other_arithmetic(call: RotaryCall) -> Iterator[RotaryCall]:
    """Return the call as code of another arithmetic computes it: transformers', or float32."""
    exact = in_float64(call)
    if exact is not call:
        yield exact
    else:
        with suppress(ConfigError):
            yield with_rope(call, arithmetic="hf")
    if call.arithmetic_dtype is None:
        yield replace(exact, arithmetic_dtype=torch.float32)


def wrap(angle: Array) -> Array:
    """Return angles in [-pi, pi]."""
    return angle - (2 * np.pi) * np.rint(angle / (2 * np.pi))


def subset(table: AngleTable, tokens: Tensor) -> AngleTable:
    """Return the angles of some tokens of a table, int64 `[t]`."""
    share = float(table.weights[tokens].sum()) / max(float(table.weights.sum()), 1e-300)
    return replace(
        table,
        z=table.z[tokens],
        weights=table.weights[tokens],
        positions=table.positions[:, tokens],
        index=table.index[tokens],
        misfit=table.misfit * share,
        rest=table.rest * share,
    )


def few_tokens(table: AngleTable, count: int) -> Tensor:
    """Return tokens with small, large and neighbouring positions, int64 `[<= count]`.

    Tokens about which nothing is known are left out, unless all are.
    """
    known = (table.weights.sum(1) > 0).nonzero()[:, 0]
    if not len(known):
        known = torch.arange(len(table.index))
    if len(known) <= count:
        return known
    order = known[table.positions[:, known].abs().sum(0).argsort(stable=True)]
    last = len(order) - 1
    first = torch.arange(min(count // 3, last))
    spread = torch.linspace(0, last, count // 2).round().long()
    doubled = torch.tensor([min(3 * 2**step // 2, last) for step in range(count)])
    chosen = torch.cat((first, spread, spread - 1, doubled)).clamp_min(0)
    picked: Tensor = torch.unique(chosen[: len(first) + count])
    return order[picked]
