"""Rotation and attention in plain torch, as a user would write them: the baseline."""

import torch
import torch.nn.functional as F
from torch import Tensor


def tables(positions: Tensor, head_dim: int, theta: float = 1e4) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, float32 `[S, 1, D]`. Benchmarks call it before they start to time."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    radians = positions.double()[:, None] * theta ** -(pairs / head_dim)
    radians = torch.cat((radians, radians), -1)[:, None]
    return radians.cos().float(), radians.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[..., S, H, D]`, layout half, with tables `[S, 1, D]`."""
    x1, x2 = x.chunk(2, -1)
    return x * cos + torch.cat((-x2, x1), -1) * sin


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[..., S, H, D]`, layout interleaved, with the same tables."""
    half = x.shape[-1] // 2
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., :half]
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).flatten(-2)


def rotate_batch(xs: list[Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Rotate tensors `[1, S, H, D]` in one batch; return one tensor per input."""
    return rotate(torch.cat(xs), cos, sin).split(1)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of `[B, S, H, D]`."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate q and k, then attend."""
    return sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v)
