"""Schemes of images and videos: the axes of a grid of patches or pixels."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.axes.frequency_table import AxisFrequencies, FrequencyTable, multiply, section_axes
from rope_core.errors import ConfigError
from rope_core.progression import power_of


def axial(
    freqs: AxisFrequencies,
    dim: int,
    *,
    axes_dim: tuple[int, ...],
    axes_order: tuple[int, ...] | None = None,
) -> FrequencyTable:
    """Each axis has its own block of channels, `axes_dim` wide, with frequencies of its own.

    `axes_order` names the axis of each block; 0, 1, 2, ... where missing.

    Source: Vision transformers of Qwen2-VL, 2024; Flux, 2024.
    Models: ViTs of Qwen 2/2.5/3-VL, GLM-4V, MLCD, SAM 2 and 3, Llama 4, Gemma 4, MiniMax-M3,
        Step-3.7, V-JEPA 2; Flux, Wan, HunyuanVideo, CogVideoX, CogView-4, Qwen-Image.
    """
    order = tuple(range(len(axes_dim))) if axes_order is None else axes_order
    if sorted(order) != list(range(len(axes_dim))):
        raise ConfigError("axes_order", f"an order of {len(axes_dim)} axes", list(order))
    if any(width % 2 or width < 2 for width in axes_dim) or sum(axes_dim) != dim:
        raise ConfigError("axes_dim", f"even widths that add up to {dim}", list(axes_dim))
    widths = [axes_dim[axis] for axis in order]
    axis = torch.tensor(order).repeat_interleave(torch.tensor(widths) // 2)
    inv_freq = torch.cat([freqs(width) for width in widths])
    return FrequencyTable(inv_freq, axis, len(order), False)


def axial_ntk(
    freqs: AxisFrequencies, dim: int, *, axes_dim: tuple[int, ...], rope_scale: tuple[float, ...]
) -> FrequencyTable:
    """As axial; the base of each axis is multiplied by its scale ** (width / (width - 2)).

    Source: Cosmos world foundation model, NVIDIA, 2025.
    Models: Cosmos 1.
    """
    if len(rope_scale) != len(axes_dim) or any(scale < 1e-6 for scale in rope_scale):
        expected = f"{len(axes_dim)} numbers of at least 1e-6"
        raise ConfigError("rope_scale", expected, list(rope_scale))
    if any(width <= 2 for width in axes_dim):
        raise ConfigError("axes_dim", "above 2 with axial_ntk", list(axes_dim))
    plain = axial(freqs, dim, axes_dim=axes_dim)
    inv_freq = []
    for scale, width in zip(rope_scale, axes_dim, strict=True):
        theta = freqs.theta * power_of("rope_scale", scale, width / (width - 2))
        inv_freq.append(freqs.for_theta(theta, width))
    return replace(plain, inv_freq=torch.cat(inv_freq))


def axial_alternating(
    freqs: AxisFrequencies, dim: int, *, axes_order: tuple[int, ...] = (0, 1)
) -> FrequencyTable:
    """Each frequency is used by all axes, one after the other.

    Source: Kimi-VL's MoonViT, 2025; Lumina-Next, 2024; Efficient LoFTR, 2024.
    Models: Kimi-K2.5 ViT (width first), Lumina-Next, EfficientLoFTR.
    """
    num_axes = len(axes_order)
    is_order = num_axes > 0 and sorted(axes_order) == list(range(num_axes))
    if not is_order or dim % (2 * num_axes):
        expected = f"an order of axes that share {dim // 2} pairs evenly"
        raise ConfigError("axes_order", expected, list(axes_order))
    inv_freq = freqs(dim // num_axes)
    axis = torch.tensor(axes_order).repeat(len(inv_freq))
    return FrequencyTable(inv_freq.repeat_interleave(num_axes), axis, num_axes, False)


def axial_split(freqs: AxisFrequencies, dim: int) -> FrequencyTable:
    """Even frequencies for rows, then odd frequencies for columns, over all channels.

    Source: Pixtral 12B, Mistral AI, 2024.
    Models: Pixtral, ViTs of Mistral 3 and LightOn-OCR.
    """
    inv_freq = freqs(dim)
    if len(inv_freq) % 2:
        raise ConfigError("rotary_dim", "a multiple of 4 with axial_split", dim)
    axis = section_axes((len(inv_freq) // 2,) * 2)
    return FrequencyTable(torch.cat((inv_freq[0::2], inv_freq[1::2])), axis, 2, False)


def axial_centred(freqs: AxisFrequencies, dim: int) -> FrequencyTable:
    """Rows, then columns: theta ** (-4i / dim) rotations per unit of coordinates in [-1, 1].

    Source: DINOv3, Siméoni et al., 2025.
    Models: DINOv3, EoMT-DINOv3, Sapiens-2.
    """
    inv_freq = 1 / freqs.theta ** torch.arange(0, 1, 4 / dim, dtype=freqs.dtype)
    axis = section_axes((len(inv_freq),) * 2)
    return FrequencyTable(inv_freq.repeat(2), axis, 2, False, _multiply_by_turns)


def axial_log(freqs: AxisFrequencies, dim: int) -> FrequencyTable:
    """Frequencies from pi / 2 to theta * pi / 2; each is used by three axes, one after the other.

    Source: LTX-Video, HaCohen et al., 2024.
    Models: LTX-Video.
    """
    if dim % 6:
        raise ConfigError("rotary_dim", "a multiple of 6 with axial_log", dim)
    exponent = torch.linspace(0.0, 1.0, dim // 6, dtype=freqs.dtype)
    inv_freq = freqs.theta**exponent * math.pi / 2.0
    return FrequencyTable(inv_freq.repeat_interleave(3), torch.arange(3).repeat(dim // 6), 3, False)


def axial_pixel(
    freqs: AxisFrequencies, dim: int, *, max_freq: float, num_axes: int = 2
) -> FrequencyTable:
    """Frequencies from pi to max_freq * pi / 2, evenly spaced, for coordinates in [-1, 1].

    Source: Perceiver's Fourier features, Jaegle et al., 2021; rotary-embedding-torch ("pixel").
    Models: EVA-style ViTs that use rotary-embedding-torch.
    """
    if max_freq <= 0:
        raise ConfigError("max_freq", "above 0", max_freq)
    if not 1 <= num_axes <= dim // 2 or dim % (2 * num_axes):
        raise ConfigError("num_axes", f"a divisor of {dim // 2} pairs", num_axes)
    num_pairs = dim // 2 // num_axes
    inv_freq = torch.linspace(1.0, max_freq / 2, num_pairs, dtype=freqs.dtype) * math.pi
    axis = section_axes((num_pairs,) * num_axes)
    return FrequencyTable(inv_freq.repeat(num_axes), axis, num_axes, False)


def _multiply_by_turns(positions: Tensor, table: FrequencyTable) -> Tensor:
    """Return 2 pi times position times frequency: positions `[A, T]` -> angles `[T, n]`."""
    return multiply(2 * math.pi * positions, table)
