"""Builders against vectors of transformers, diffusers and rotary-embedding-torch.

Where a file has cosines alone, the builder's coordinates must give them within 2 ulp, in the
arithmetic of the package the vector comes from.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rope_core import positions as build
from tests.ulp import within_ulp

GOLDEN = Path(__file__).parents[1] / "golden" / "rope"


def golden(name):
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    return described, load_file(GOLDEN / f"{name}.safetensors")


def inv_freq(theta, dim, dtype=torch.float32):
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=dtype) / dim)


def axes_concat(points, dims, theta, dtype=torch.float32):
    """Return angles `[T, pairs]`, the axes one after the other."""
    thetas = theta if isinstance(theta, list) else [theta] * len(dims)
    each = zip(points.float(), dims, thetas, strict=True)
    return torch.cat([torch.outer(p, inv_freq(base, d, dtype)) for p, d, base in each], -1)


def interleaved(angles):
    return angles.repeat_interleave(2, -1)


def half(angles):
    return angles.repeat(*[1] * (angles.ndim - 1), 2)


@pytest.mark.parametrize(
    ("name", "family", "compat"),
    [
        ("qwen2_vl", "qwen2_vl", "5.23"),
        ("qwen2_5_vl", "qwen2_5_vl", "5.23"),
        ("long_video", "qwen2_5_vl", "5.23"),
        ("long_video_v457", "qwen2_5_vl", "4.57"),
        ("long_video_qwen2_v457", "qwen2_vl", "4.57"),
    ],
)
def test_mrope_index(name, family, compat):
    _, case = golden(f"mrope_index_{name}")
    types = case.get("in_mm_token_type_ids")
    if types is None:
        types = build.token_types(input_ids=case["in_input_ids"])
    ids = build.mrope_index(
        token_types=types,
        image_grid_thw=case.get("in_image_grid_thw"),
        video_grid_thw=case.get("in_video_grid_thw"),
        second_per_grid_ts=case.get("in_second_per_grid_ts"),
        family=family,
        compat=compat,
    )
    assert torch.equal(ids.positions, case["position_ids"])
    assert torch.equal(ids.rope_delta, case["rope_deltas"][:, 0])


def cosmos(points):
    dims, scales = (44, 42, 42), (2.0, 1.0, 1.0)
    thetas = [10000.0 * scale ** (d / (d - 2)) for d, scale in zip(dims, scales, strict=True)]
    return half(axes_concat(points, dims, thetas))


def ltx(points):
    log = [math.log(x, 10000.0) for x in (1.0, 10000.0)]
    freqs = 10000.0 ** torch.linspace(*log, 128 // 6) * math.pi / 2.0
    angles = interleaved((freqs[:, None] * points.T[:, None, :]).flatten(1))
    return torch.nn.functional.pad(angles, (128 % 6, 0))


def loftr(points):
    freqs = inv_freq(10000.0, 128)
    pairs = torch.stack([axis[:, None] * freqs for axis in points.float()], -1)
    return interleaved(pairs.flatten(-2))[None]


def esmfold(points):
    space, uid = (base ** (torch.arange(n).float() / n) for base, n in ((100.0, 4), (10000.0, 2)))
    angles = [axis[..., None] * (1.0 / space) for axis in points[:3]]
    angles += [points[3, ..., None] * (1.0 / uid), torch.zeros(*points.shape[1:], 2)]
    return half(torch.cat(angles, -1))


def music(points):
    time, window, frame = points
    freqs = inv_freq(1200.0, 256)
    both = [interleaved(axis[..., None] * freqs) for axis in (window, frame)]
    return torch.cat(both, -1) * time[..., None]


def dinov3(points):
    freqs = 1 / 100.0 ** torch.arange(0, 1, 4 / 64)
    return half(torch.cat([2 * math.pi * axis[:, None] * freqs for axis in points], -1))


def lumina_next(points):
    each = [torch.outer(axis, inv_freq(10000.0, 24)) for axis in points.float()]
    return torch.stack(each, -1).flatten(1)


def pixel(points):
    freqs = torch.linspace(1.0, 128.0, 8) * math.pi
    return interleaved(torch.cat([axis[:, None] * freqs for axis in points], -1))


# LTX rounds the exponents of its frequencies: a unit of x is ln(10,000) units of 10,000 ** x
EXPONENT_UNITS = {"ltx_video": 1 + math.log(10_000)}
THW = (44, 42, 42)
FLUX = (16, 56, 56)
LLAMA_4 = {"start": 1, "column_first": True, "last_tokens": 1}
LTX = {"sizes": [2, 3, 4], "rope_interpolation_scale": [0.32, 32.0, 32.0]}
CROP = {"sizes": [3, 3, 4], "crop_start": [0, 3], "crop_stop": [30, 45]}
ANGLES = {
    "cogvideox_1_5": (
        lambda _: build.grid_positions(sizes=[3, 2, 4]),
        lambda points: interleaved(axes_concat(points, (16, 24, 24), 10000)),
    ),
    "cogvideox_2b": (
        lambda _: build.crop_positions(**CROP),
        lambda points: interleaved(axes_concat(points, (16, 24, 24), 10000)),
    ),
    "cogview4_6b": (
        lambda _: build.resampled_positions(sizes=[4, 2], axes_dim=[256, 256]),
        lambda points: half(axes_concat(points, (32, 32), 10000.0)),
    ),
    "cosmos_1": (lambda _: build.frame_rate_positions(sizes=[3, 2, 3], fps=30), cosmos),
    "dinov3_vits16": (lambda _: build.patch_centre_positions(sizes=[3, 4]), dinov3),
    "efficientloftr": (lambda _: build.grid_positions(sizes=[3, 4], start=1), loftr),
    "esmfold2_xyz": (lambda case: build.atom_positions(xyz=case["xyz"], uid=case["uid"]), esmfold),
    "hunyuan_video": (
        lambda _: build.grid_positions(sizes=[2, 3, 4]),
        lambda points: interleaved(axes_concat(points, FLUX, 256.0)),
    ),
    "llama4_vision": (
        lambda _: build.grid_positions(sizes=[4, 4], **LLAMA_4),
        lambda points: axes_concat(points, (44, 44), 10000.0),
    ),
    "ltx_video": (lambda _: build.normalised_video_positions(**LTX), ltx),
    "lucid_pixel_axial": (lambda _: build.pixel_positions(sizes=[4, 6]), pixel),
    "lumina_next_2d": (lambda _: build.grid_positions(sizes=[2, 5]), lumina_next),
    "musicflamingo_time": (
        lambda case: build.audio_time_positions(timestamps=case["timestamps"]),
        music,
    ),
    "qwen_image": (
        lambda _: build.centred_positions(sizes=[[1, 4, 6]], text_tokens=5),
        lambda points: axes_concat(points, FLUX, 10000),
    ),
    "wan_t2v": (
        lambda _: build.grid_positions(sizes=[3, 2, 3]),
        lambda points: interleaved(axes_concat(points.double(), THW, 10000.0, torch.float64)),
    ),
}


@pytest.mark.parametrize("name", ANGLES)
def test_angles(name):
    _, case = golden(name)
    make, angles = ANGLES[name]
    turned = angles(make(case))
    angle = turned.abs().view_as(case["cos"]) * EXPONENT_UNITS.get(name, 1.0)
    for function in ("cos", "sin"):
        made = getattr(turned, function)().float().view_as(case[function])
        assert within_ulp(made, case[function], size=1.0, angle=angle)


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("dinov3_vits16", build.patch_centre_positions(sizes=[3, 4])),
        ("mochi_1", build.area_normalised_positions(sizes=[2, 3, 4])),
        ("vjepa2_rope", build.grid_positions(sizes=[3, 3, 3])[:, :24]),
        ("lucid_interpolate", build.offset_positions(length=8)[None]),
    ],
)
def test_positions(name, points):
    _, case = golden(name)
    expected = case["position_ids"] if name == "lucid_interpolate" else case["position_ids"].T
    assert points.dtype == expected.dtype
    assert torch.equal(points, expected)


@pytest.mark.parametrize("name", ["flux_dev", "sam2_memory"])
def test_positions_of_single_patches(name):
    """The golden files have some patches of a large grid."""
    _, case = golden(name)
    expected = case["position_ids"].long()
    if name == "flux_dev":
        points = build.flux_positions(sizes=[128, 64], text_tokens=2)
        token = torch.tensor([0, 2, 3, 2 + 64, 2 + 31 * 64 + 63, 2 + 127 * 64 + 5])
    else:
        points = build.grid_positions(sizes=[64, 64], column_first=True)
        token = expected[:, 1] * 64 + expected[:, 0]
    assert torch.equal(points[:, token].T, expected)


def scores(case, q_positions, k_positions):
    def turned(x, points):
        angles = half(points.float()[:, None] * case["inv_freq"])
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    return turned(case["q"], q_positions) @ turned(case["k"], k_positions).transpose(-1, -2)


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        ("self_extend", build.self_extend_positions(length=40, window=8, group=4)),
        ("rerope", build.rerope_positions(length=40, window=8)),
        ("rerope", build.leaky_rerope_positions(length=40, window=8, factor=1e9)),
    ],
)
def test_grouped_scores(name, grouped):
    _, case = golden(name)
    near = scores(case, grouped.q_near, grouped.k_near)
    far = scores(case, grouped.q_far, grouped.k_far)
    distance = grouped.q_near[:, None] - grouped.k_near
    seen = distance >= 0
    both = torch.where(distance < 8, near, far)
    pairs = (near, "scores_near"), (far, "scores_far"), (both, "scores")
    for mine, each in pairs:
        torch.testing.assert_close(mine * seen, case[each] * seen, rtol=0, atol=2e-5)
