"""Schemes of text between images and videos: M-RoPE and its kin. One number does for a word."""

import torch

from rope_core.axes.frequency_table import Columns, Spectra, runs
from rope_core.errors import ConfigError


def mrope(spectra: Spectra, dim: int, *, mrope_section: tuple[int, ...]) -> Columns:
    """M-RoPE: the first frequencies by time, the next by height, the last by width.

    Source: Qwen2-VL, Wang et al., 2024, section 2.1.
    Models: Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, PaddleOCR-VL, GLM-4V (interleaved), GLM-4.5V.
    """
    _check_sections("mrope_section", mrope_section, 3, dim)
    return Columns(spectra(dim), runs(mrope_section), 3)


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
    return Columns(spectra(dim).repeat(2), runs(doubled), len(xdrope_section))


def _check_sections(name: str, sections: tuple[int, ...], count: int, dim: int) -> None:
    natural = all(section >= 0 for section in sections)
    if not sections or len(sections) != count or not natural or sum(sections) != dim // 2:
        expected = f"{count} whole numbers that add up to {dim // 2} pairs"
        raise ConfigError(name, expected, list(sections))
