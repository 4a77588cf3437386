"""Formulas of models that are not read through transformers, written out in their own order.

Of diffusers 0.42, of rotary-embedding-torch 0.9, of transformers 4.57, and of classes of
transformers that hold no rotary module. Angles of grids are in tests/core/test_positions_golden.py.
"""

import numpy as np
import torch
from torch import Tensor

from tests.core.test_positions_golden import (
    ANGLES,
    FLUX,
    axes_concat,
    half,
    interleaved,
    inv_freq,
)
from tests.golden_cases import Case

Tables = tuple[Tensor, Tensor]


def _cos_sin(angles: Tensor) -> Tables:
    return angles.cos().float(), angles.sin().float()


def _positions(case: Case) -> Tensor:
    return case.tensors["position_ids"].float()


def _flux(case: Case) -> Tables:
    return _cos_sin(
        interleaved(axes_concat(_positions(case).double().T, FLUX, 10000, torch.double))
    )


def _gptj(case: Case) -> Tables:
    return _cos_sin(_positions(case)[..., None] * inv_freq(10000, 64))


def _one_axis(case: Case) -> Tables:
    return _cos_sin(interleaved(torch.outer(_positions(case), inv_freq(4e4, 64) / 2.0)))


def _mochi(case: Case) -> Tables:
    return _cos_sin(torch.einsum("nd,dhf->nhf", _positions(case), case.tensors["pos_frequencies"]))


def _conformer(case: Case) -> Tables:
    return _cos_sin(half(_positions(case)[..., None] * inv_freq(10000, 64)))


def _phimoe(case: Case) -> Tables:
    scaling = case.described["config"]["rope_scaling"]
    stretched = torch.tensor(scaling["long_factor"])
    freqs = 1.0 / (stretched * 10000.0 ** (torch.arange(0, 32, 2).float() / 32))
    angles = half(_positions(case)[..., None] * freqs)
    return angles.cos() * scaling["long_mscale"], angles.sin() * scaling["long_mscale"]


def _roformer(case: Case) -> Tables:
    angles = case.tensors["position_ids"].numpy()[..., None] / np.power(
        10000, 2 * np.arange(32) / 64
    )
    return torch.from_numpy(np.cos(angles)).float(), torch.from_numpy(np.sin(angles)).float()


def _vjepa(case: Case) -> Tables:
    omega = 1.0 / 10000 ** (torch.arange(10.0) / 10.0)
    turned = [half(axis[:, None] * omega) for axis in case.tensors["position_ids"].T]
    return _cos_sin(torch.cat([*turned, torch.zeros(24, 4)], -1))


def _interpolated(case: Case) -> Tables:
    at = _positions(case)[0] / case.described["config"].get("interpolate_factor", 1.0)
    return _cos_sin(interleaved(at[:, None] * inv_freq(10000, 32)))


def _rescaled(case: Case) -> Tables:
    return _cos_sin(
        interleaved(_positions(case)[0][:, None] * inv_freq(10000 * 4.0 ** (32 / 30), 32))
    )


TABLES = {
    "flux_dev": _flux,
    "gptj_6b": _gptj,
    "lucid_interpolate": _interpolated,
    "lucid_ntk_static": _rescaled,
    "lucid_xpos": _interpolated,
    "mochi_1": _mochi,
    "oned_ntk_linear": _one_axis,
    "phimoe_long_v457": _phimoe,
    "roformer_base": _roformer,
    "vjepa2_rope": _vjepa,
    "wav2vec2_conformer": _conformer,
}


POLAR = ("lumina_next_2d", "qwen_image")


def table(case: Case) -> Tables:
    """Return cosine and sine, or real and imaginary part, as the model holds them."""
    if case.name in TABLES:
        return TABLES[case.name](case)
    build, angles = ANGLES[case.name]
    angle = angles(build(case.tensors))
    if case.name in POLAR:
        turn = torch.polar(torch.ones_like(angle), angle)
        return turn.real, turn.imag
    return _cos_sin(angle)


def rotated(case: Case, x: Tensor, tables: Tables, *, is_key: bool) -> Tensor:
    """Return q or k `[B, H, S, D]`, or hidden states, rotated."""
    cos, sin = (_for_heads(case, table, x) for table in tables)
    rest, x = x[..., : -cos.shape[-2], :], x[..., x.shape[-2] - cos.shape[-2] :, :]
    if case.is_complex:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
    else:
        width = cos.shape[-1]
        x, passed = x[..., :width], x[..., width:]
        turned = x * cos * _scale(case, is_key) + _turn(case, x) * sin * _scale(case, is_key)
        turned = torch.cat((turned, passed), -1)
    return torch.cat((rest, turned), -2)


def _for_heads(case: Case, table: Tensor, x: Tensor) -> Tensor:
    """Return a table that is as wide as what it multiplies, and has an axis for heads."""
    if case.name in ("gptj_6b", "roformer_base"):
        table = interleaved(table)
    if case.name == "mochi_1":
        return table.transpose(0, 1)
    return table[:, None] if table.ndim == 3 and x.ndim == 4 else table


def _turn(case: Case, x: Tensor) -> Tensor:
    if case.described["layout"] == "half":
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-second, first), -1).flatten(-2)


def _scale(case: Case, is_key: bool) -> Tensor | float:
    if case.name != "lucid_xpos":
        return 1.0
    zeta = (torch.arange(0, 32, 2) + 0.4 * 32) / (1.4 * 32)
    power = (torch.arange(17.0) - 17 // 2) / case.described["config"]["xpos_scale_base"]
    scale = interleaved(zeta ** power[:, None])
    return scale**-1 if is_key else scale
