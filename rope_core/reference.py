"""The classical forms of rotary position embedding, in float64: what the library is tested against.

Written to be read next to the papers, not to be fast, and shares no code with the rest of the
library. RoFormer is Su et al., 2021, https://arxiv.org/abs/2104.09864. Of a head's `head_dim`
elements the leading `rotary_dim` are turned, in pairs; the rest passes through. In the functions
here x is `[..., tokens, heads, head_dim]` and positions are `[..., tokens]`, whole or fractional.

>>> rope = RopeConfig.of(4, layout="interleaved")
>>> x, there = torch.randn(3, 1, 4), torch.tensor([0, 1, 2])
>>> bool((rotate_complex(x, there, rope) - rotate_matrix(x, there, rope)).norm() < 1e-14)
True
"""

import math
from itertools import product

import torch
from torch import Tensor

from rope_core.config import AttentionConfig, RopeConfig


def frequencies(rope: RopeConfig) -> Tensor:
    """Return w_i = theta ** (-2i / rotary_dim), radians per position: `[rotary_dim / 2]`."""
    exponents = [-2 * i / rope.rotary_dim for i in range(rope.rotary_dim // 2)]
    return torch.tensor([rope.theta**exponent for exponent in exponents], dtype=torch.float64)


def split(x: Tensor, rope: RopeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and second members of all pairs `[..., rotary_dim / 2]`, and what is left."""
    x, d = x.double(), rope.rotary_dim
    if rope.layout == "interleaved":
        return x[..., 0:d:2], x[..., 1:d:2], x[..., d:]
    return x[..., : d // 2], x[..., d // 2 : d], x[..., d:]


def join(first: Tensor, second: Tensor, rest: Tensor, rope: RopeConfig) -> Tensor:
    """Undo `split`."""
    if rope.layout == "interleaved":
        return torch.cat((torch.stack((first, second), -1).flatten(-2), rest), -1)
    return torch.cat((first, second, rest), -1)


def rotate_complex(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Euler's form: z = x1 + i x2 of each pair becomes e^(i m w) z (RoFormer, 3.2.1)."""
    first, second, rest = split(x, rope)
    turn = (1j * _radians(positions, rope)).exp()
    z = turn * torch.complex(first, second)
    return join(z.real, z.imag, rest, rope)


def rotate_pairs(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """The matrix [[cos, -sin], [sin, cos]] times each pair as a column (RoFormer, 3.2.1)."""
    first, second, rest = split(x, rope)
    a = _radians(positions, rope)
    rows = torch.stack((a.cos(), -a.sin())), torch.stack((a.sin(), a.cos()))
    pair = torch.stack((first, second))
    return join((rows[0] * pair).sum(0), (rows[1] * pair).sum(0), rest, rope)


def rotate_elementwise(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Element by element: x * C + J(x) * S, J makes (x1, x2) into (-x2, x1) (RoFormer, 3.4.2)."""
    first, second, rest = split(x, rope)
    a = _radians(positions, rope)
    passed = torch.zeros(*a.shape[:-1], rest.shape[-1])  # the angle of what does not turn
    c = join(a.cos(), a.cos(), passed.cos(), rope)
    s = join(a.sin(), a.sin(), passed.sin(), rope)
    return x.double() * c + join(-second, first, rest, rope) * s


def rotate_matrix(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """The whole matrix times each head: R_m x (RoFormer, 3.2.2)."""
    matrices = torch.empty(*positions.shape, rope.head_dim, rope.head_dim, dtype=torch.float64)
    for token in product(*(range(n) for n in positions.shape)):
        matrices[token] = rotation_matrix(positions[token].item(), rope)
    return torch.einsum("...tij,...thj->...thi", matrices, x.double())


def rotation_matrix(position: float, rope: RopeConfig) -> Tensor:
    """Return R_m `[head_dim, head_dim]`: 2x2 blocks on the diagonal where pairs are neighbours.

    Pairs of the layout "half" lie apart: there it is P R_m P^T, with P of `permutation`.
    """
    angles = (position * frequencies(rope)).tolist()
    blocks = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
    return _block_diagonal(blocks, torch.eye(rope.head_dim, dtype=torch.float64), rope)


def generator(rope: RopeConfig) -> Tensor:
    """Return A `[head_dim, head_dim]` with dR_m/dm = A R_m, hence R_m = exp(m A).

    Its blocks are w_i [[0, -1], [1, 0]].
    """
    blocks = [[[0.0, -w], [w, 0.0]] for w in frequencies(rope).tolist()]
    return _block_diagonal(blocks, torch.zeros(rope.head_dim, rope.head_dim).double(), rope)


def permutation(rope: RopeConfig) -> Tensor:
    """Return P `[head_dim, head_dim]`: from interleaved order (x0, x1, ...) to (x0, x2, .. x1, ..).

    rope_half(P x) = P rope_interleaved(x); scores are kept where q and k are permuted alike.
    """
    d = rope.rotary_dim
    order = [*range(0, d, 2), *range(1, d, 2), *range(d, rope.head_dim)]
    return torch.eye(rope.head_dim, dtype=torch.float64)[order]


def relative_score(q: Tensor, k: Tensor, distance: float, rope: RopeConfig) -> Tensor:
    """Return g(q, k, m - n) = Re sum_i q_i conj(k_i) e^(i (m - n) w_i) (RoFormer, 3.2.1).

    It is the score <R_m q, R_n k> of a query at m and a key at n, `distance` = m - n.
    q and k are `[..., head_dim]`; the answer is `[...]`.
    """
    q1, q2, q_rest = split(q, rope)
    k1, k2, k_rest = split(k, rope)
    products = torch.complex(q1, q2) * torch.complex(k1, k2).conj()
    turn = (1j * distance * frequencies(rope)).exp()
    return (products * turn).sum(-1).real + (q_rest * k_rest).sum(-1)


def rotation_x(angle: float) -> Tensor:
    """Return R_x `[3, 3]`: about x, from y towards z (right-handed, radians, column vectors)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)


def rotation_y(angle: float) -> Tensor:
    """Return R_y `[3, 3]`: about y, from z towards x (right-handed, radians, column vectors)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)


def rotation_z(angle: float) -> Tensor:
    """Return R_z `[3, 3]`: about z, from x towards y (right-handed, radians, column vectors)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


def rotation_xyz(x: float, y: float, z: float) -> Tensor:
    """Return R_z(z) R_y(y) R_x(x): about x first, then y, then z, axes that stay (extrinsic).

    The same as turning about z, then the new y, then the newest x (intrinsic z-y'-x''). Unlike the
    planes of rotary embedding, turns about different axes do not commute.
    """
    return rotation_z(z) @ rotation_y(y) @ rotation_x(x)


def angles_xyz(matrix: Tensor) -> tuple[float, float, float]:
    """Return the angles of which `rotation_xyz` makes `matrix`; y is in [-pi/2, pi/2].

    At y = +-pi/2 (gimbal lock) x and z turn about one axis; only x -+ z is then defined.
    """
    r = matrix.tolist()
    x, z = math.atan2(r[2][1], r[2][2]), math.atan2(r[1][0], r[0][0])
    return x, math.atan2(-r[2][0], math.hypot(r[0][0], r[1][0])), z


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    config: AttentionConfig,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
    index: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return softmax(scale * q k^T + mask) v and the log-sum-exp of each row of scores.

    Args:
        q: `[..., Sq, H, D]`.
        k: `[..., Sk, Hkv, D]`: head j serves the queries' heads j * H / Hkv and those after it.
        v: `[..., Sk, Hkv, Dv]`.
        config: which keys are seen. The last query is at the place of the last key.
        sinks: `[H]`: scores of one key more, which everyone sees and whose value is 0.
        mask: `[..., H, Sq, Sk]`: which keys may be seen, or what is added to the scores.
        index: places of queries `[Sq]` and keys `[Sk]` in their whole sequence.

    Returns:
        `[..., Sq, H, Dv]` and `[..., Sq, H]`; 0 and -inf for a query that sees no key.
    """
    group = q.shape[-2] // k.shape[-2]
    k, v = (t.double().repeat_interleave(group, -2) for t in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if config.scale is None else config.scale
    scores = scale * torch.einsum("...qhd,...khd->...hqk", q.double(), k)
    if config.softcap is not None:
        scores = config.softcap * torch.tanh(scores / config.softcap)
    seen = visible(q.shape[-3], k.shape[-3], config, index)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
        seen = seen & (mask > -math.inf)
    elif mask is not None:
        seen = seen & mask
    scores = scores.masked_fill(~seen, -math.inf)
    if sinks is not None:
        sink = sinks.double()[:, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), -1)
    weights = scores.softmax(-1).masked_fill(scores == -math.inf, 0)  # 0/0 where all are
    out = torch.einsum("...hqk,...khe->...qhe", weights[..., : k.shape[-3]], v)
    return out, scores.logsumexp(-1).transpose(-1, -2)


def visible(
    num_queries: int,
    num_keys: int,
    config: AttentionConfig,
    index: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return which key each query sees: bool `[Sq, Sk]`."""
    if index is None:
        index = torch.arange(num_queries) + (num_keys - num_queries), torch.arange(num_keys)
    i, j = index[0][:, None], index[1]
    distance = i - j
    seen = torch.ones_like(distance, dtype=torch.bool)
    if config.causal:
        seen &= distance >= 0
    if config.window is not None:
        seen &= (-config.window_ahead <= distance) & (distance < config.window)
    if config.chunk is not None:
        seen &= i // config.chunk == j // config.chunk
    return seen


def _radians(positions: Tensor, rope: RopeConfig) -> Tensor:
    """Return m * w_i for each token, the same for all heads: `[..., tokens, 1, pairs]`."""
    return positions.double()[..., None, None] * frequencies(rope)


def _block_diagonal(blocks: list[list[list[float]]], out: Tensor, rope: RopeConfig) -> Tensor:
    """Write blocks [[a, b], [c, d]], one for each pair, over the diagonal of `out`."""
    for i, block in enumerate(blocks):
        out[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(block, dtype=torch.float64)
    p = permutation(rope)
    return out if rope.layout == "interleaved" else p @ out @ p.T
