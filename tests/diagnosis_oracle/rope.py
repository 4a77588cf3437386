"""What the code of a port computes: frequencies, angles, tables and rotated heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from tests.diagnosis_oracle.frequencies import Row, frequencies

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}


def rounded(x: Array, dtype: str | None) -> Array:
    """Return x with the numbers that `dtype` has, in the dtype of x."""
    if dtype is None:
        return x
    with np.errstate(over="ignore"):  # float16 ends at 65,504
        return x.astype(DTYPES[dtype]).astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A rotation as some code computes it, right or wrong."""

    head_dim: int
    rotary_dim: int
    theta: float = 10_000.0
    kind: str = "default"
    numbers: Mapping[str, Any] = field(default_factory=dict)
    most: int = 0
    """max_position_embeddings of the config; 0 if it has none."""

    pairs: str = "half"
    """half, interleaved, or interleaved_to_half."""

    columns: str | None = None
    """Layout of the columns of cosine and sine, if not that of the pairs."""

    width: int | None = None
    """Denominator of the exponents; None for rotary_dim."""

    start: int = 0
    sign: int = 1
    gain: float | None = None
    times: int = 1
    permutation: tuple[int, ...] | None = None
    scheme: str | None = None
    """None, mrope, mrope_interleaved, or axial."""

    sections: tuple[int, ...] = ()
    order: tuple[int, ...] | None = None
    """The code reads axis order[k] where axis k is right."""

    one_axis: str | None = None
    """first: all pairs by axis 0; index: by the number of the token."""

    offset: float = 0.0
    scale: float = 1.0
    counted: bool = False
    """Positions are 0, 1, 2, ... in each row."""

    along: str = "tokens"
    """tokens, heads, or batch."""

    other_list: bool = False
    """LongRoPE takes the list that is not due."""

    positions_dtype: str | None = None
    frequencies_dtype: str | None = None
    angles_dtype: str | None = None
    arithmetic: str = "float64"
    """Dtype of frequencies, positions and angles: float64, or float32 as in transformers."""

    def row(self, length: int) -> tuple[Row, float]:
        """Return the frequency of each pair, and the gain, for a call of that length."""
        if self.scheme == "axial":
            parts = [frequencies("default", self.theta, d, d // 2, {}, 0)[0] for d in self.sections]
            row, gain = np.concatenate(parts), 1.0
        else:
            if self.other_list:
                is_long = length > self.numbers["original_max_position_embeddings"]
                length = 0 if is_long else 1 << 40
            width = self.width or self.rotary_dim
            count = self.rotary_dim // 2
            row, gain = frequencies(self.kind, self.theta, width, count, self.numbers, length)
        row = row.astype(self.arithmetic)
        return rounded(row, self.frequencies_dtype), gain if self.gain is None else self.gain

    def axis_of_pair(self) -> Array:
        """Return which axis of the positions turns each pair."""
        n = self.rotary_dim // 2
        if self.scheme is None or self.one_axis:
            return np.zeros(n, int)
        if self.scheme == "axial":
            return np.repeat(np.arange(len(self.sections)), [d // 2 for d in self.sections])
        if self.scheme == "mrope":
            return np.repeat(np.arange(3), self.sections)[:n]
        axis = np.zeros(n, int)
        for number in (1, 2):
            axis[number : 3 * self.sections[number] : 3] = number
        return axis

    def angles(self, positions: Array, length: int | None = None) -> tuple[Array, float]:
        """Return the angles `[B, S, n]` of positions `[A, B, S]`, with their sign, and the gain."""
        if length is None:
            length = int(positions.max()) + 1 if positions.size else 0
        row, gain = self.row(length)
        at = positions.astype(np.float64)
        if self.counted or self.one_axis == "index":
            at = np.broadcast_to(np.arange(at.shape[-1], dtype=np.float64), at.shape)
        if self.order is not None:
            at = at[list(self.order)]
        at = ((at + self.offset) * self.scale).astype(self.arithmetic)
        at = rounded(at, self.positions_dtype)
        angles = np.moveaxis(at[self.axis_of_pair()], 0, -1) * row
        return self.sign * rounded(angles, self.angles_dtype), gain

    def table(self, positions: Array, length: int | None = None) -> tuple[Array, Array]:
        """Return cosine and sine `[B, S, n]`, with frequencies for a call of that length."""
        angles, gain = self.angles(positions, length)
        gain = np.dtype(self.arithmetic).type(gain)
        with np.errstate(invalid="ignore"):
            return np.cos(angles) * gain, np.sin(angles) * gain

    def rotate(
        self,
        x: Array,
        positions: Array,
        tables_dtype: str | None = None,
        length: int | None = None,
    ) -> Array:
        """Return heads `[B, S, H, D]` as the code rotates them; positions are `[A, B, S]`.

        With `tables_dtype`, cosine, sine, products and sums are rounded to it.
        """
        if self.times == 0:
            return x if self.permutation is None else x[..., list(self.permutation)]
        length = int(positions.max()) + 1 if length is None else length
        cos, sin = self._turns(x.shape, positions, length)
        cos, sin = rounded(cos, tables_dtype), rounded(sin, tables_dtype)
        for _ in range(self.times):
            x = self._turn(x, cos, sin, tables_dtype)
        return x if self.permutation is None else x[..., list(self.permutation)]

    def _turns(self, shape: tuple[int, ...], positions: Array, length: int) -> tuple[Array, Array]:
        """Return cosine and sine as `[B, S, H or 1, n]`."""
        rows, _tokens, heads, _ = shape
        if self.along == "tokens":
            cos, sin = self.table(positions, length)
            return cos[:, :, None], sin[:, :, None]
        count = heads if self.along == "heads" else rows
        first = np.zeros((len(positions), 1, 1))
        cos, sin = self.table(first + np.arange(count), length)
        axis = (0, 1) if self.along == "heads" else (1, 2)
        cos, sin = cos[0], sin[0]
        cos, sin = np.expand_dims(cos, axis), np.expand_dims(sin, axis)
        return cos, sin

    def _turn(self, x: Array, cos: Array, sin: Array, dtype: str | None) -> Array:
        d, n = self.rotary_dim, self.rotary_dim // 2
        first, second = channels(self.pairs, d)
        one = column(self.columns or self.pairs, first, n)
        two = column(self.columns or self.pairs, second, n)
        a, b = x[..., self.start + first], x[..., self.start + second]
        top = rounded(a * cos[..., one], dtype) - rounded(b * sin[..., one], dtype)
        low = rounded(b * cos[..., two], dtype) + rounded(a * sin[..., two], dtype)
        written = "half" if self.pairs == "interleaved_to_half" else self.pairs
        first, second = channels(written, d)
        out = np.array(x, dtype=np.result_type(top, x))
        out[..., self.start + first], out[..., self.start + second] = top, low
        return rounded(out, dtype)


def channels(pairs: str, d: int) -> tuple[Array, Array]:
    """Return the first and the second channel of each pair."""
    n = np.arange(d // 2)
    return (n, n + d // 2) if pairs == "half" else (2 * n, 2 * n + 1)


def column(layout: str, channel: Array, n: int) -> Array:
    """Return which angle a table of that layout has for a channel."""
    return channel % n if layout == "half" else channel // 2
