"""Cosine and sine of angles of any size, to float32 precision."""

import math

import triton
import triton.language as tl

TWO_OVER_PI = tl.constexpr(2 / math.pi)
HALF_PI = tl.constexpr(math.pi / 2)

# pi / 2 in three parts; the first two have 26 bits, so that their products below are exact
HALF_PI_HIGH = tl.constexpr(float.fromhex("0x1.921fb5p+0"))
HALF_PI_MIDDLE = tl.constexpr(float.fromhex("0x1.110b46p-26"))
HALF_PI_LOW = tl.constexpr(float.fromhex("0x1.1a62633145c07p-54"))

UPPER_26_BITS = tl.constexpr(-(1 << 27))


@triton.jit
def cos_sin(angle) -> tuple[tl.tensor, tl.tensor]:
    """Return cosine and sine, float32, of `angle`: radians, float64, any shape.

    The absolute error is below 1e-7 for any angle. Cody-Waite range reduction, then Taylor series.
    """
    quarter_turns, remainder = _reduce(angle)
    # the number of quarter turns of a large angle is itself rounded: a few may be left
    extra = tl.floor(remainder * TWO_OVER_PI + 0.5)
    quadrant = (quarter_turns - 4 * tl.floor(quarter_turns * 0.25) + extra).to(tl.int32)
    r = (remainder - extra * HALF_PI).to(tl.float32)
    z = r * r
    # the truncation error of both series is below 1e-8 at pi / 4
    s = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    c = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800)))))
    is_odd = quadrant & 1 == 1
    cos, sin = tl.where(is_odd, s, c), tl.where(is_odd, c, s)
    cos = tl.where((quadrant + 1) & 2 == 0, cos, -cos)
    sin = tl.where(quadrant & 2 == 0, sin, -sin)
    return cos, sin


@triton.jit
def _reduce(angle):
    """Return a whole number n and angle - n * pi / 2, both float64."""
    n = tl.floor(angle * TWO_OVER_PI + 0.5)
    # only the last product below is rounded, with or without fused multiply-add
    upper = (n.to(tl.int64, bitcast=True) & UPPER_26_BITS).to(tl.float64, bitcast=True)
    lower = n - upper
    remainder = angle - upper * HALF_PI_HIGH - lower * HALF_PI_HIGH
    remainder = remainder - upper * HALF_PI_MIDDLE - lower * HALF_PI_MIDDLE
    return n, remainder - n * HALF_PI_LOW
