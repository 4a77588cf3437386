"""Rotations by the formulas of the papers, in float64, with no code of the library."""

import math

import torch
from torch import Tensor

LLAMA3_INV_FREQ = torch.tensor(
    [1.0, 7.9403e-02, 4.7008e-03, 9.1158e-04, 1.7678e-04, 3.4281e-05, 6.6479e-06, 1.2892e-06]
)
"""What LlamaRotaryEmbedding of transformers 5.23 has for the config of the cases 4.x and 5.x."""


def inv_freq(width: int, rope: dict[str, object]) -> Tensor:
    """Return radians per position `[pairs]` of a rope that is given by parameters."""
    dim, theta = rope.get("rotary_dim", width), rope.get("theta", 10_000.0)
    if rope.get("rope_type") in ("ntk", "ntk_alpha"):
        theta *= (rope.get("factor") or rope["alpha"]) ** (dim / (dim - 2))
    plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    match rope.get("rope_type", "default"):
        case "linear":
            plain = [w / rope["factor"] for w in plain]
        case "llama3":
            plain = [_llama3(w, **rope) for w in plain]
    return torch.tensor(plain, dtype=torch.float64)


def _llama3(
    w: float,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
    rope_type: str,
) -> float:
    wavelength = 2 * math.pi / w
    if wavelength < original_max_position_embeddings / high_freq_factor:
        return w
    if wavelength > original_max_position_embeddings / low_freq_factor:
        return w / factor
    ramp = original_max_position_embeddings / wavelength - low_freq_factor
    ramp /= high_freq_factor - low_freq_factor
    return (1 - ramp) * w / factor + ramp * w


def rotate(
    x: Tensor, positions: Tensor, rope: dict[str, object], *, inverse: bool = False
) -> Tensor:
    """Return x `[T, H, D]` with its pairs turned by position times frequency, in float64."""
    x, width = x.double().clone(), x.shape[-1]
    dim = rope.get("rotary_dim", width)
    first = width - dim if rope.get("trailing") else 0
    index = torch.arange(dim)
    pairs = index.view(-1, 2).T if rope.get("layout") == "interleaved" else index.view(2, -1)
    even, odd = (first + side for side in pairs)
    sign = -1 if inverse != bool(rope.get("negative")) else 1
    angles = sign * positions.double()[:, None, None] * inv_freq(width, rope)
    a, b = x[..., even], x[..., odd]
    x[..., even] = a * angles.cos() - b * angles.sin()
    x[..., odd] = b * angles.cos() + a * angles.sin()
    return x
