"""Rotation of heads `[T, H, D]` by positions, into memory of any strides."""

from torch import Tensor

from rope_core.angles import Angles, angles_at, key_angles
from rope_core.backends.eager_rotary import rotary_operator
from rope_core.backends.work import RotaryWork
from rope_core.config import RopeConfig


def query_angles(positions: Tensor, rope: RopeConfig) -> Angles:
    """Return the angles of queries at `positions` `[T]` or `[A, T]`."""
    return angles_at(positions, rope)


def stored_angles(positions: Tensor, rope: RopeConfig) -> Angles:
    """Return the angles of keys at `positions` `[T]` or `[A, T]`."""
    angles = key_angles(angles_at(positions, rope))
    assert isinstance(angles, Angles), "kernels compute fused angles themselves"
    return angles


def rotate_into(out: Tensor, x: Tensor, angles: Angles, rope: RopeConfig) -> None:
    """Write `x` `[T, H, D]`, rotated, to `out`.

    Args:
        out: of the shape and dtype of x, channels contiguous; it shares no memory with x.
        x: channels contiguous.
        angles: of the T tokens.
        rope: layout and rounding.
    """
    work = RotaryWork((x,), angles.cos, angles.sin, angles.scale, rope, False, (out,))
    rotary_operator(work)(work)
