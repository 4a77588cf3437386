"""Rotations by the rules of published modeling code, in plain torch.

The functions follow the code that `source` of a row in `remote_families.json` names. The formulas
share nothing with the library; `check` alone calls the library, to compare.
"""

import math

import torch

from rope_core import Rotate, rotate
from rope_core.hf import resolve

POSITIONS = torch.tensor([0, 1, 17, 2000, 70000])


def inv_freq(dim, base=1e4):
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def turn(x, frequencies, *, order="half", gain=1.0):
    """Return x `[T, H, D]` with its first channels rotated, in float64.

    `order`: which channels are a pair, "half" or "interleaved"; "permuted" reads the latter and
    writes the former.
    """
    x, width = x.double().clone(), 2 * len(frequencies)
    pairs = x[..., :width].unflatten(-1, (2, -1)).transpose(-1, -2)
    if order != "half":
        pairs = x[..., :width].unflatten(-1, (-1, 2))
    angles = POSITIONS.double()[:, None, None] * frequencies
    z = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    turned = torch.view_as_real(z) * gain
    x[..., :width] = (turned if order == "interleaved" else turned.transpose(-1, -2)).flatten(-2)
    return x


def check(config, frequencies, *, width, order="half", gain=1.0, **options):
    """Compare the rotation of a config with `turn`, in float64."""
    resolved = resolve(config, arithmetic="float64", **options)
    x = torch.randn(len(POSITIONS), 2, width, generator=torch.Generator().manual_seed(0))
    rotated = rotate(Rotate(x, None, resolved.rope, positions=POSITIONS)).q
    expected = turn(x, frequencies, order=order, gain=gain)
    assert resolved.rope.head_dim == width
    torch.testing.assert_close(rotated.double(), expected, rtol=0, atol=1e-6)


def grown(base, stretch, dim):
    return base * stretch ** (dim / (dim - 2))


def yarn(dim, base, factor, original, fast=32, slow=1):
    plain = inv_freq(dim, base)
    low, high = (
        dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (fast, slow)
    )
    low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp)


def llama_31(dim, base):
    """apply_scaling of Meta's reference code."""
    plain = inv_freq(dim, base)
    wavelength = 2 * math.pi / plain
    smooth = (8192 / wavelength - 1) / 3
    scaled = torch.where(wavelength > 8192, plain / 8, plain)
    blended = (1 - smooth) * plain / 8 + smooth * plain
    return torch.where((wavelength >= 2048) & (wavelength <= 8192), blended, scaled)


def of_gte(dim, base, factor, mixed_b=None):
    if mixed_b is None:
        return inv_freq(dim, base * factor) / factor ** (2 / dim)
    step = math.log(factor) / (dim / 2) ** mixed_b
    return inv_freq(dim, base) / (step * torch.arange(1, dim // 2 + 1).double() ** mixed_b).exp()
