"""The bare calls of torch that a user would write: what the service and the library are held to."""

import torch
import torch.nn.functional as F
from torch import Tensor

Tables = tuple[Tensor, Tensor]


def tables(positions: Tensor, head_dim: int, theta: float = 1e4) -> Tables:
    """Return cosine and sine `[S, 1, D]`, made beforehand and not timed."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    radians = positions.double()[:, None] * theta ** -(pairs / head_dim)
    radians = torch.cat((radians, radians), -1)[:, None]
    return radians.cos().float(), radians.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[..., S, H, D]`, half-split."""
    x1, x2 = x.chunk(2, -1)
    return x * cos + torch.cat((-x2, x1), -1) * sin


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `[..., S, H, D]`, interleaved, by the same tables."""
    half = x.shape[-1] // 2
    x1, x2, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., :half]
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).flatten(-2)


def rotate_batch(xs: list[Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Rotate tensors of one shape as one."""
    return rotate(torch.cat(xs), cos, sin).split(1)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention of `[B, S, H, D]`."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate, then attend."""
    return sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v)
