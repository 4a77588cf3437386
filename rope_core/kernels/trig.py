"""Cosine and sine of angles of any size, within a rounding of float32."""

import math

import triton
import triton.language as tl

TWO_OVER_PI = tl.constexpr(2 / math.pi)
HALF_PI = tl.constexpr(math.pi / 2)

# the same in three parts; the first two have 26 bits, so that their products below are exact
HALF_PI_HIGH = tl.constexpr(float.fromhex("0x1.921fb5p+0"))
HALF_PI_MIDDLE = tl.constexpr(float.fromhex("0x1.110b46p-26"))
HALF_PI_LOW = tl.constexpr(float.fromhex("0x1.1a62633145c07p-54"))

UPPER_26_BITS = tl.constexpr(-(1 << 27))


@triton.jit
def cos_sin(angle) -> tuple[tl.tensor, tl.tensor]:
    """Return cosine and sine, float32, of `angle` in radians, float64.

    The error is below 1e-7 whatever the angle, taken as the float64 it is.
    """
    turns, rest = _quarter_turns(angle)
    # the number of turns of a large angle is itself rounded: a few may be left
    more = tl.floor(rest * TWO_OVER_PI + 0.5)
    quadrant = (turns - 4 * tl.floor(turns * 0.25) + more).to(tl.int32)
    r = (rest - more * HALF_PI).to(tl.float32)
    z = r * r
    # Taylor's series, which at pi / 4 end below 1e-8
    s = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    c = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800)))))
    swapped = quadrant & 1 == 1
    cos, sin = tl.where(swapped, s, c), tl.where(swapped, c, s)
    cos = tl.where((quadrant + 1) & 2 == 0, cos, -cos)
    sin = tl.where(quadrant & 2 == 0, sin, -sin)
    return cos, sin


@triton.jit
def _quarter_turns(angle):
    """Return n, whole, and angle - n * pi / 2: both float64."""
    n = tl.floor(angle * TWO_OVER_PI + 0.5)
    # no product below is rounded but the last, whether or not it is fused with its difference
    upper = (n.to(tl.int64, bitcast=True) & UPPER_26_BITS).to(tl.float64, bitcast=True)
    lower = n - upper
    rest = angle - upper * HALF_PI_HIGH - lower * HALF_PI_HIGH
    rest = rest - upper * HALF_PI_MIDDLE - lower * HALF_PI_MIDDLE
    return n, rest - n * HALF_PI_LOW
