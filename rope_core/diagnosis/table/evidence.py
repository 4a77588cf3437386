"""A table of cosine and sine as evidence: its columns, and the angles of its pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.checks import dtype_of, shape_of
from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.calls import RotaryCall, predict
from rope_core.diagnosis.difference import pieces
from rope_core.errors import ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class TableEvidence:
    """Cosine and sine of all tokens."""

    got: Tensor
    """`[T, 2, n]`: cosine and sine of each pair."""

    tolerance: float

    def angle_table(self, positions: Tensor, index: Tensor) -> AngleTable:
        """Return the angles of some tokens, int64 `[t]`; positions `[A, T]`."""
        cos, sin = self.got[index].double().unbind(1)
        return AngleTable(
            z=torch.complex(cos, sin),
            weights=torch.ones_like(cos),
            positions=positions[:, index],
            index=index,
            tolerance=self.tolerance,
        )

    def error(self, call: RotaryCall) -> float:
        """Return |table - reproduced| / |reproduced| of all tokens."""
        wrong = right = 0.0
        for got, index in pieces(self.got, torch.arange(len(self.got))):
            reproduced = torch.view_as_real(predict(call, index)).transpose(1, 2)  # [t, 2, n]
            if reproduced.shape != got.shape:
                return float("inf")
            wrong += float((got.double() - reproduced).square().sum())
            right += float(reproduced.square().sum())
        return (wrong / right) ** 0.5 if right else float("inf")


def check(cos: Tensor, sin: Tensor) -> None:
    """Check that the tables are of one shape and of numbers.

    Raises:
        ShapeError: they are not.
    """
    for name, table in (("cos", cos), ("sin", sin)):
        if not table.dtype.is_floating_point:
            raise ShapeError(name, "of floating-point numbers", dtype_of(table))
        if not table.ndim or not table.numel():
            raise ShapeError(name, "[..., n] with at least one number", shape_of(table))
    if sin.shape != cos.shape:
        raise ShapeError("sin", f"of the shape of 'cos', {shape_of(cos)}", shape_of(sin))
    if sin.dtype != cos.dtype:
        raise ShapeError("sin", f"of the dtype of 'cos', {dtype_of(cos)}", dtype_of(sin))


def pair_columns(table: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """Return one column for each pair of `table` `[T, 2, m]`: a repetition is dropped.

    Args:
        table: cosine and sine, with m columns.
        expected: the right table, `[T, 2, n]`. Of as many columns, a repetition is one only if it
            is exact and the right table has none.
        tolerance: largest relative difference of columns that are the same.
    """
    is_as_wide = table.shape[-1] == expected.shape[-1]
    if is_as_wide and _first_of_repeated(expected, tolerance) is not None:
        return table
    found = _first_of_repeated(table, 0.0 if is_as_wide else tolerance)
    return table if found is None else found


def _first_of_repeated(table: Tensor, tolerance: float) -> Tensor | None:
    """Return the columns that are repeated by halves or by neighbours; None if they are not."""
    columns = table.shape[-1]
    if columns % 2:
        return None
    halves = table.chunk(2, -1)
    neighbours = table[..., 0::2], table[..., 1::2]
    for first, second in (halves, neighbours):
        difference = (first.double() - second.double()).square().sum()
        if float(difference) <= (tolerance / 4) ** 2 * float(first.double().square().sum()):
            return first
    return None


def padded(table: Tensor, pairs: int) -> Tensor:
    """Return `[T, 2, n]` with at least so many pairs: those without column do not rotate."""
    missing = pairs - table.shape[-1]
    if missing <= 0:
        return table
    still = torch.zeros((len(table), 2, missing), dtype=table.dtype)
    still[:, 0] = 1
    return torch.cat((table, still), -1)
