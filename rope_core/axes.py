"""Schemes of several axes: which axis of a position drives which angle, and with what frequency.

A scheme takes the model's one-axis `Spectra`, the number of channels `dim` it rotates, and its own
parameters by keyword. It returns `Columns`: the frequency and the axis of each angle. Positions
have their axes first, `[A, tokens]`. `SCHEMES` has all schemes by name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.errors import ConfigError, ShapeError
from rope_core.frequencies import power_of
from rope_core.registry import register


@dataclass(frozen=True, slots=True)
class Spectra:
    """The frequencies of one axis, at whatever width a scheme asks for."""

    theta: float
    dtype: torch.dtype
    at: Callable[[float, int], Tensor]
    """From base and width to `[width / 2]`."""

    def __call__(self, width: int) -> Tensor:
        """Return the frequencies of `width` channels."""
        return self.at(self.theta, width)


Angles = Callable[[Tensor, "Columns"], Tensor]


def product(positions: Tensor, columns: "Columns") -> Tensor:
    """Return position times frequency for each token and column: `[A, T]` -> `[T, n]`."""
    if columns.axis is None:
        return positions[0, :, None] * columns.inv_freq
    return positions.index_select(0, columns.axis.to(positions.device)).mT * columns.inv_freq


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What is multiplied to angles."""

    inv_freq: Tensor
    """Angular frequencies `[n]`, radians per unit of position."""

    axis: Tensor | None = None
    """int64 `[n]`: the axis of each; None where there is one axis."""

    num_axes: int = 1

    of_text: bool = True
    """Whether one number may stand for all axes, as it does for a token of text."""

    angles: Angles = product

    coupled: bool = False
    """Whether an angle is made of several axes, and not of its own alone."""


def mrope(spectra: Spectra, dim: int, *, mrope_section: tuple[int, ...]) -> Columns:
    """M-RoPE: the first frequencies by time, the next by height, the last by width.

    Source: Qwen2-VL, Wang et al., 2024, section 2.1.
    Models: Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, PaddleOCR-VL, GLM-4V (interleaved), GLM-4.5V.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    return Columns(spectra(dim), _runs(mrope_section), 3)


def mrope_interleaved(spectra: Spectra, dim: int, *, mrope_section: tuple[int, ...]) -> Columns:
    """Interleaved M-RoPE: axes take turns t, h, w, t, h, w, and the slow tail is time's.

    Source: Qwen3-VL technical report, 2025.
    Models: Qwen3-VL, Qwen3-Omni, Qwen3.5, Cosmos-3-Edge.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    axis = torch.zeros(dim // 2, dtype=torch.int64)
    for turn in (1, 2):
        axis[turn : 3 * mrope_section[turn] : 3] = turn
    return Columns(spectra(dim), axis, 3)


def mrope_hw_t(spectra: Spectra, dim: int, *, mrope_section: tuple[int, ...]) -> Columns:
    """ERNIE's M-RoPE, sections [h, w, t]: fast frequencies take turns h, w; the slow are time's.

    Source: ERNIE 4.5 technical report, 2025.
    Models: ERNIE-4.5-VL.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    height, width, time = mrope_section
    if height != width:
        raise ConfigError("mrope_section", "of equal h and w", list(mrope_section))
    axis = torch.tensor([1, 2] * height + [0] * time)
    return Columns(spectra(dim), axis, 3)


def alternating(spectra: Spectra, dim: int) -> Columns:
    """Even frequencies of one list by row, odd ones by column.

    Source: NeoMME's code in transformers.
    Models: NeoMME.
    """
    return Columns(spectra(dim), torch.arange(dim // 2) % 2, 2)


def xdrope(spectra: Spectra, dim: int, *, xdrope_section: tuple[int, ...]) -> Columns:
    """XD-RoPE: sections of twice their length cut the list of angles written twice over.

    Two members of a pair may turn by different axes, so this is no rotation.

    Source: HunyuanOCR technical report, 2025.
    Models: HunyuanVL, HunyuanOCR.
    """
    _check_sections("xdrope_section", xdrope_section, len(xdrope_section), dim)
    doubled = tuple(2 * section for section in xdrope_section)
    return Columns(spectra(dim).repeat(2), _runs(doubled), len(xdrope_section))


def axial(
    spectra: Spectra,
    dim: int,
    *,
    axes_dim: tuple[int, ...],
    axes_order: tuple[int, ...] | None = None,
) -> Columns:
    """Each axis has its own block of channels, of widths `axes_dim`, with its own full progression.

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
    return Columns(torch.cat([spectra(width) for width in widths]), axis, len(order), False)


def axial_ntk(
    spectra: Spectra, dim: int, *, axes_dim: tuple[int, ...], rope_scale: tuple[float, ...]
) -> Columns:
    """As axial, the base of each axis stretched by its scale ** (width / (width - 2)).

    Source: Cosmos world foundation model, NVIDIA, 2025.
    Models: Cosmos 1.
    """
    if len(rope_scale) != len(axes_dim) or any(scale < 1e-6 for scale in rope_scale):
        expected = f"{len(axes_dim)} numbers of at least 1e-6"
        raise ConfigError("rope_scale", expected, list(rope_scale))
    if any(width <= 2 for width in axes_dim):
        raise ConfigError("axes_dim", "above 2 with axial_ntk", list(axes_dim))
    plain = axial(spectra, dim, axes_dim=axes_dim)
    pairs = zip(rope_scale, axes_dim, strict=True)
    bases = [
        spectra.theta * power_of("rope_scale", scale, width / (width - 2)) for scale, width in pairs
    ]
    inv_freq = [spectra.at(base, width) for base, width in zip(bases, axes_dim, strict=True)]
    return Columns(torch.cat(inv_freq), plain.axis, plain.num_axes, False)


def axial_alternating(
    spectra: Spectra, dim: int, *, axes_order: tuple[int, ...] = (0, 1)
) -> Columns:
    """All axes share one progression and take turns at each of its frequencies.

    Source: Kimi-VL's MoonViT, 2025; Lumina-Next, 2024; Efficient LoFTR, 2024.
    Models: Kimi-K2.5 ViT (width first), Lumina-Next, EfficientLoFTR.
    """
    num_axes = len(axes_order)
    whole = num_axes > 0 and sorted(axes_order) == list(range(num_axes))
    if not whole or dim % (2 * num_axes):
        expected = f"an order of axes that share {dim // 2} pairs evenly"
        raise ConfigError("axes_order", expected, list(axes_order))
    each = spectra(dim // num_axes)
    axis = torch.tensor(axes_order).repeat(len(each))
    return Columns(each.repeat_interleave(num_axes), axis, num_axes, False)


def axial_split(spectra: Spectra, dim: int) -> Columns:
    """One progression over all channels: its even frequencies for rows, then odd ones for columns.

    Source: Pixtral 12B, Mistral AI, 2024.
    Models: Pixtral, ViTs of Mistral 3 and LightOn-OCR.
    """
    inv_freq = spectra(dim)
    if len(inv_freq) % 2:
        raise ConfigError("rotary_dim", "a multiple of 4 with axial_split", dim)
    axis = torch.arange(2).repeat_interleave(len(inv_freq) // 2)
    return Columns(torch.cat((inv_freq[0::2], inv_freq[1::2])), axis, 2, False)


def axial_centred(spectra: Spectra, dim: int) -> Columns:
    """Rows, then columns: theta ** (-4i / dim) turns per unit of coordinates in [-1, 1].

    Source: DINOv3, Siméoni et al., 2025.
    Models: DINOv3, EoMT-DINOv3, Sapiens-2.
    """
    exponent = torch.arange(0, 1, 4 / dim, dtype=spectra.dtype)
    each = 1 / spectra.theta**exponent
    axis = torch.arange(2).repeat_interleave(len(each))
    return Columns(each.repeat(2), axis, 2, False, _turns)


def axial_log(spectra: Spectra, dim: int) -> Columns:
    """Frequencies from pi / 2 up to theta * pi / 2, three axes taking turns at each.

    Source: LTX-Video, HaCohen et al., 2024.
    Models: LTX-Video.
    """
    if dim % 6:
        raise ConfigError("rotary_dim", "a multiple of 6 with axial_log", dim)
    exponent = torch.linspace(0.0, 1.0, dim // 6, dtype=spectra.dtype)
    each = spectra.theta**exponent * math.pi / 2.0
    return Columns(each.repeat_interleave(3), torch.arange(3).repeat(dim // 6), 3, False)


def axial_pixel(spectra: Spectra, dim: int, *, max_freq: float, num_axes: int = 2) -> Columns:
    """Frequencies from pi to max_freq * pi / 2, evenly spaced, for coordinates in [-1, 1].

    Source: Perceiver's Fourier features, Jaegle et al., 2021; rotary-embedding-torch ("pixel").
    Models: EVA-style ViTs that use rotary-embedding-torch.
    """
    if max_freq <= 0:
        raise ConfigError("max_freq", "above 0", max_freq)
    if not 1 <= num_axes <= dim // 2 or dim % (2 * num_axes):
        raise ConfigError("num_axes", f"a divisor of {dim // 2} pairs", num_axes)
    each = torch.linspace(1.0, max_freq / 2, dim // 2 // num_axes, dtype=spectra.dtype) * math.pi
    axis = torch.arange(num_axes).repeat_interleave(len(each))
    return Columns(each.repeat(num_axes), axis, num_axes, False)


def atoms(
    spectra: Spectra,
    dim: int,
    *,
    num_spatial_pairs: int,
    num_uid_pairs: int,
    spatial_theta: float,
    uid_theta: float,
) -> Columns:
    """Coordinates x, y, z in space, then the molecule's id; the pairs left over stand still.

    Source: ESMFold2's atom encoder.
    Models: ESMFold2.
    """
    for name, theta in (("spatial_theta", spatial_theta), ("uid_theta", uid_theta)):
        if theta < 1e-6:
            raise ConfigError(name, "a number of at least 1e-6", theta)
    still = dim // 2 - 3 * num_spatial_pairs - num_uid_pairs
    if min(num_spatial_pairs, num_uid_pairs) < 0 or still < 0:
        expected = f"with 3 * num_spatial_pairs in [0, {dim // 2}] and neither negative"
        raise ConfigError("num_uid_pairs", expected, f"{num_uid_pairs}, {num_spatial_pairs}")
    space, uid = (
        1.0 / theta ** (torch.arange(0, pairs, dtype=spectra.dtype) / pairs)
        for theta, pairs in ((spatial_theta, num_spatial_pairs), (uid_theta, num_uid_pairs))
    )
    axis = _runs((num_spatial_pairs,) * 3 + (num_uid_pairs + still,))
    return Columns(torch.cat((space.repeat(3), uid, space.new_zeros(still))), axis, 4, False)


def timestamps(spectra: Spectra, dim: int) -> Columns:
    """Angle time * (coordinate * frequency), of the window first, then of the frame.

    Axes are -2 pi times seconds, the window's coordinate and the frame's.

    Source: Music Flamingo, NVIDIA, 2025.
    Models: Music Flamingo.
    """
    axis = torch.arange(1, 3).repeat_interleave(dim // 4)
    return Columns(spectra(dim // 2).repeat(2), axis, 3, False, _timed, coupled=True)


def interpolated(spectra: Spectra, dim: int, *, interpolate_factor: float) -> Columns:
    """One axis, positions divided by a factor before anything else.

    Source: rotary-embedding-torch (`interpolate_factor`).
    Models: users of rotary-embedding-torch.
    """
    if not interpolate_factor >= 1:
        raise ConfigError("interpolate_factor", "at least 1", interpolate_factor)

    def divided(positions: Tensor, columns: Columns) -> Tensor:
        return product(positions / interpolate_factor, columns)

    return Columns(spectra(dim), angles=divided)


def summed(frequencies: Tensor, dim: int) -> Columns:
    """Return the columns of learned frequencies `[A, H, dim / 2]`, summed over axes (Mochi 1)."""
    if frequencies.ndim != 3 or frequencies.shape[-1] != dim // 2:
        expected = f"[axes, heads, {dim // 2}]"
        raise ShapeError("frequencies", expected, list(frequencies.shape))

    def summing(positions: Tensor, columns: Columns) -> Tensor:
        return torch.einsum("an,ahf->nhf", positions, columns.inv_freq)

    return Columns(frequencies, None, len(frequencies), False, summing, coupled=True)


def _turns(positions: Tensor, columns: Columns) -> Tensor:
    return product(2 * math.pi * positions, columns)


def _timed(positions: Tensor, columns: Columns) -> Tensor:
    return product(positions, columns) * positions[0, :, None]


def _runs(lengths: tuple[int, ...]) -> Tensor:
    """Return 0 as often as the first length says, then 1, ..."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def _check_sections(name: str, sections: tuple[int, ...], count: int, dim: int) -> None:
    natural = all(section >= 0 for section in sections)
    if not sections or len(sections) != count or not natural or sum(sections) != dim // 2:
        expected = f"{count} whole numbers that add up to {dim // 2} pairs"
        raise ConfigError(name, expected, list(sections))


SCHEMES = register(
    (
        *(mrope, mrope_interleaved, mrope_hw_t, alternating, xdrope),
        *(axial, axial_ntk, axial_alternating, axial_split, axial_centred, axial_log, axial_pixel),
        *(atoms, timestamps, interpolated),
    )
)
"""Every scheme by name."""
