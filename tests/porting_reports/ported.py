"""Pieces of code that ports share, transcribed from the reports; wrong ones say so."""

import math
from typing import Any

import torch
from torch import Tensor

Numbers = dict[str, Any]


def heads(*shape: int, seed: int = 0) -> Tensor:
    """Return random heads `[B, S, H, D]`."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inv_freq(theta: float, dim: int) -> Tensor:
    """Return the frequencies as every port writes them."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Return the angles of tokens `[..., S, n]`."""
    return positions[..., None].double() * frequencies


def rotate_half(x: Tensor) -> Tensor:
    """Return the partners of the half layout."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rotate_every_two(x: Tensor) -> Tensor:
    """Return the partners of the interleaved layout."""
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def half(x: Tensor, turn: Tensor, gain: float = 1.0) -> Tensor:
    """Rotate `[B, S, H, d]` as Hugging Face's Llama."""
    turn = torch.cat((turn, turn), -1)[..., None, :]
    return (x * turn.cos() * gain + rotate_half(x.double()) * turn.sin() * gain).float()


def interleaved(x: Tensor, turn: Tensor, gain: float = 1.0) -> Tensor:
    """Rotate `[B, S, H, d]` as Meta's Llama and GPT-J."""
    turn = turn.repeat_interleave(2, -1)[..., None, :]
    return (x * turn.cos() * gain + rotate_every_two(x.double()) * turn.sin() * gain).float()


def partial(x: Tensor, turn: Tensor, start: int = 0) -> Tensor:
    """Rotate a slice of each head in the half layout."""
    stop = start + 2 * turn.shape[-1]
    return torch.cat((x[..., :start], half(x[..., start:stop], turn), x[..., stop:]), -1)


def llama3(frequencies: Tensor, factor: float, trained: int) -> Tensor:
    """Return Llama 3.1's frequencies."""
    wavelengths = 2 * math.pi / frequencies
    smooth = ((trained / wavelengths - 1) / 3).clamp(0, 1)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def yarn(
    theta: float, dim: int, factor: float, trained: int, truncate: bool = True, fast: float = 32.0
) -> Tensor:
    """Return YaRN's frequencies."""

    def pair_of(turns: float) -> float:
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(fast), pair_of(1.0)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    ramp = ((torch.arange(dim // 2).double() - max(low, 0)) / (high - max(low, 0))).clamp(0, 1)
    plain = inv_freq(theta, dim)
    return plain / factor * ramp + plain * (1 - ramp)


def rotation(before: Tensor, after: Tensor, positions: Tensor) -> Numbers:
    """Return the evidence of a rotation."""
    return {"before": before, "after": after, "positions": positions}


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend causally, in float64, q and k already rotated."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * scale
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.double()).float()
