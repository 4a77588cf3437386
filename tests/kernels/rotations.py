"""Rotations by the kernel into memory that holds NaN, and by the reference."""

import math

import torch

from rope_core import RopeConfig, reference
from rope_core.kernels.rotary import rotate
from tests.core.oracle import randn


def inv_freq_of(rotary_dim, theta=10_000.0):
    """Return inv_freq `[rotary_dim / 2]`."""
    return reference.frequencies(RopeConfig.of(rotary_dim, theta=theta))


def table(positions, inv_freq):
    angles = positions.double()[:, None] * inv_freq
    return angles.cos().float(), angles.sin().float()


def expected_rotation(x, positions, rotary_dim, layout, *, trailing=False):
    """Return the reference rotation of x, float64, on the CPU."""
    rope = RopeConfig.of(rotary_dim, layout=layout)
    start = x.shape[-1] - rotary_dim if trailing else 0
    y = x.double().cpu().clone()
    part = slice(start, start + rotary_dim)
    y[..., part] = reference.rotate_complex(y[..., part], positions.double(), rope)
    return y


def empty_like(x):
    return torch.full(x.shape, math.nan, dtype=x.dtype, device=x.device)


def rotate_by_position(xs, positions, layout, *, rotary_dim=None, outs=None, **options):
    """Rotate by positions into `outs`, or into new tensors that hold NaN."""
    outs = [empty_like(x) for x in xs] if outs is None else outs
    rotary_dim = rotary_dim or xs[0].shape[-1]
    device = xs[0].device
    inv_freq = inv_freq_of(rotary_dim).to(device)
    options |= {"rotary_dim": rotary_dim, "layout": layout}
    rotate(xs, outs, inv_freq=inv_freq, index=positions.to(device), **options)
    return outs


def rotate_by_table(xs, positions, layout, *, rotary_dim=None, outs=None, rows=None, **options):
    """Rotate by the rows of a table of all `positions`."""
    outs = [empty_like(x) for x in xs] if outs is None else outs
    rotary_dim = rotary_dim or xs[0].shape[-1]
    device = xs[0].device
    cos, sin = (t.to(device) for t in table(positions, inv_freq_of(rotary_dim)))
    rows = None if rows is None else rows.to(device)
    options |= {"rotary_dim": rotary_dim, "layout": layout}
    rotate(xs, outs, table=(cos, sin), index=rows, **options)
    return outs


def qk(tokens, heads, width, device, dtype=torch.float32):
    return [
        randn(tokens, h, width, dtype=dtype, seed=seed).to(device) for seed, h in enumerate(heads)
    ]
