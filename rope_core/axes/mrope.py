"""M-RoPE and related schemes, for text with images and videos. Text has one number for all axes."""

import torch

from rope_core.axes.frequency_table import AxisFrequencies, FrequencyTable, section_axes
from rope_core.errors import ConfigError


def mrope(freqs: AxisFrequencies, dim: int, *, mrope_section: tuple[int, ...]) -> FrequencyTable:
    """M-RoPE: the first frequencies use time, the next use height, the last use width.

    Source: Qwen2-VL, Wang et al., 2024, section 2.1.
    Models: Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, PaddleOCR-VL, GLM-4V (interleaved), GLM-4.5V.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    return FrequencyTable(freqs(dim), section_axes(mrope_section), 3)


def mrope_interleaved(
    freqs: AxisFrequencies, dim: int, *, mrope_section: tuple[int, ...]
) -> FrequencyTable:
    """Interleaved M-RoPE: axes alternate t, h, w, t, h, w, ...; the slowest frequencies use time.

    Source: Qwen3-VL technical report, 2025.
    Models: Qwen3-VL, Qwen3-Omni, Qwen3.5, Cosmos-3-Edge.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    axis = torch.zeros(dim // 2, dtype=torch.int64)
    for offset in (1, 2):
        axis[offset : 3 * mrope_section[offset] : 3] = offset
    return FrequencyTable(freqs(dim), axis, 3)


def mrope_hw_t(
    freqs: AxisFrequencies, dim: int, *, mrope_section: tuple[int, ...]
) -> FrequencyTable:
    """ERNIE's M-RoPE, sections [h, w, t]: fast frequencies alternate h and w, slow ones use time.

    Source: ERNIE 4.5 technical report, 2025.
    Models: ERNIE-4.5-VL.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    height, width, time = mrope_section
    if height != width:
        raise ConfigError("mrope_section", "of equal h and w", list(mrope_section))
    return FrequencyTable(freqs(dim), torch.tensor([1, 2] * height + [0] * time), 3)


def alternating(freqs: AxisFrequencies, dim: int) -> FrequencyTable:
    """Even frequencies use the row, odd frequencies use the column.

    Source: NeoMME's code in transformers.
    Models: NeoMME.
    """
    return FrequencyTable(freqs(dim), torch.arange(dim // 2) % 2, 2)


def xdrope(freqs: AxisFrequencies, dim: int, *, xdrope_section: tuple[int, ...]) -> FrequencyTable:
    """XD-RoPE: the list of angles is repeated, and divided into sections of twice their length.

    The two channels of a pair may use different axes; then this is not a rotation.

    Source: HunyuanOCR technical report, 2025.
    Models: HunyuanVL, HunyuanOCR.
    """
    _check_sections("xdrope_section", xdrope_section, len(xdrope_section), dim)
    axis = section_axes(tuple(2 * section for section in xdrope_section))
    return FrequencyTable(freqs(dim).repeat(2), axis, len(xdrope_section))


def _check_sections(name: str, sections: tuple[int, ...], count: int, dim: int) -> None:
    valid = len(sections) == count > 0 and min(sections) >= 0 and sum(sections) == dim // 2
    if not valid:
        expected = f"{count} whole numbers that add up to {dim // 2} pairs"
        raise ConfigError(name, expected, list(sections))
