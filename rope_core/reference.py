"""The classical forms of rotary position embedding, in float64: the reference of the tests.

Written to be read next to the papers, not to be fast. Shares no code with the rest of the library.
RoFormer is Su et al., 2021, https://arxiv.org/abs/2104.09864. Of the `head_dim` elements of a head
the first `rotary_dim` are rotated, in pairs; the rest passes through. In all functions x is
`[..., tokens, heads, head_dim]` and positions are `[..., tokens]`, whole or fractional. Results are
float64 of the shape of x.

>>> rope = RopeConfig.of(4, layout="interleaved")
>>> x, positions = torch.randn(3, 1, 4), torch.tensor([0, 1, 2])
>>> difference = rotate_complex(x, positions, rope) - rotate_matrix(x, positions, rope)
>>> bool(difference.norm() < 1e-14)
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


def split_pairs(x: Tensor, rope: RopeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and second members of all pairs `[..., rotary_dim / 2]`, and the rest."""
    x, d = x.double(), rope.rotary_dim
    if rope.layout == "interleaved":
        return x[..., 0:d:2], x[..., 1:d:2], x[..., d:]
    return x[..., : d // 2], x[..., d // 2 : d], x[..., d:]


def join_pairs(first: Tensor, second: Tensor, rest: Tensor, rope: RopeConfig) -> Tensor:
    """Undo `split_pairs`."""
    if rope.layout == "interleaved":
        return torch.cat((torch.stack((first, second), -1).flatten(-2), rest), -1)
    return torch.cat((first, second, rest), -1)


def rotate_complex(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Complex form: z = x1 + i x2 of each pair becomes e^(i m w) z (RoFormer, 3.2.1)."""
    first, second, rest = split_pairs(x, rope)
    rotor = (1j * _radians(positions, rope)).exp()
    z = rotor * torch.complex(first, second)
    return join_pairs(z.real, z.imag, rest, rope)


def rotate_pairs(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Pair form: [[cos, -sin], [sin, cos]] times each pair as a column (RoFormer, 3.2.1)."""
    first, second, rest = split_pairs(x, rope)
    a = _radians(positions, rope)
    rows = torch.stack((a.cos(), -a.sin())), torch.stack((a.sin(), a.cos()))
    pair = torch.stack((first, second))
    return join_pairs((rows[0] * pair).sum(0), (rows[1] * pair).sum(0), rest, rope)


def rotate_elementwise(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Elementwise form: x * C + J(x) * S with J(x1, x2) = (-x2, x1) (RoFormer, 3.4.2)."""
    first, second, rest = split_pairs(x, rope)
    a = _radians(positions, rope)
    passed = torch.zeros(*a.shape[:-1], rest.shape[-1])  # angle 0: the rest is not rotated
    c = join_pairs(a.cos(), a.cos(), passed.cos(), rope)
    s = join_pairs(a.sin(), a.sin(), passed.sin(), rope)
    return x.double() * c + join_pairs(-second, first, rest, rope) * s


def rotate_matrix(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Matrix form: R_m x of each head (RoFormer, 3.2.2)."""
    matrices = torch.empty(*positions.shape, rope.head_dim, rope.head_dim, dtype=torch.float64)
    for token in product(*(range(n) for n in positions.shape)):
        matrices[token] = rotation_matrix(positions[token].item(), rope)
    return torch.einsum("...tij,...thj->...thi", matrices, x.double())


def rotation_matrix(position: float, rope: RopeConfig) -> Tensor:
    """Return R_m `[head_dim, head_dim]`: 2x2 blocks on the diagonal where pairs are neighbours.

    Pairs of the layout "half" lie apart: R_m is then P R_m P^T, with P of `permutation`.
    """
    angles = (position * frequencies(rope)).tolist()
    blocks = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
    return _block_diagonal(blocks, torch.eye(rope.head_dim, dtype=torch.float64), rope)


def generator(rope: RopeConfig) -> Tensor:
    """Return A `[head_dim, head_dim]` with dR_m/dm = A R_m, so R_m = exp(m A).

    Its blocks are w_i [[0, -1], [1, 0]].
    """
    blocks = [[[0.0, -w], [w, 0.0]] for w in frequencies(rope).tolist()]
    return _block_diagonal(blocks, torch.zeros(rope.head_dim, rope.head_dim).double(), rope)


def permutation(rope: RopeConfig) -> Tensor:
    """Return P `[head_dim, head_dim]`: from interleaved order (x0, x1, ...) to (x0, x2, .. x1, ..).

    rope_half(P x) = P rope_interleaved(x); scores do not change if q and k are both permuted.
    """
    d = rope.rotary_dim
    order = [*range(0, d, 2), *range(1, d, 2), *range(d, rope.head_dim)]
    return torch.eye(rope.head_dim, dtype=torch.float64)[order]


def relative_score(q: Tensor, k: Tensor, distance: float, rope: RopeConfig) -> Tensor:
    """Return g(q, k, m - n) = Re sum_i q_i conj(k_i) e^(i (m - n) w_i) (RoFormer, 3.2.1).

    It is the score <R_m q, R_n k> of a query at m and a key at n, `distance` = m - n.
    q and k are `[..., head_dim]`; the answer is `[...]`.
    """
    q1, q2, q_rest = split_pairs(q, rope)
    k1, k2, k_rest = split_pairs(k, rope)
    products = torch.complex(q1, q2) * torch.complex(k1, k2).conj()
    rotor = (1j * distance * frequencies(rope)).exp()
    return (products * rotor).sum(-1).real + (q_rest * k_rest).sum(-1)


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
    """Return R_z(z) R_y(y) R_x(x): about x, then y, then z, fixed axes (extrinsic): `[3, 3]`.

    The same as about z, then the new y, then the new x (intrinsic z-y'-x''). Unlike the planes of
    rotary embedding, rotations about different axes do not commute.
    """
    return rotation_z(z) @ rotation_y(y) @ rotation_x(x)


def angles_xyz(matrix: Tensor) -> tuple[float, float, float]:
    """Return the angles x, y, z with `rotation_xyz(x, y, z)` = `matrix`; y is in [-pi/2, pi/2].

    At y = +-pi/2 (gimbal lock) x and z rotate about one axis, and only x -+ z is defined.
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
        config: which keys are visible. The last query has the index of the last key.
        sinks: `[H]`: the score of one more key with value 0, visible to every query.
        mask: `[..., H, Sq, Sk]`: bool, which keys are visible, or numbers added to the scores.
        index: indices of queries `[Sq]` and keys `[Sk]` in their whole sequence.

    Returns:
        `[..., Sq, H, Dv]` and `[..., Sq, H]`; 0 and -inf for a query that sees no key.
    """
    group = q.shape[-2] // k.shape[-2]
    k, v = (t.double().repeat_interleave(group, -2) for t in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if config.scale is None else config.scale
    scores = scale * torch.einsum("...qhd,...khd->...hqk", q.double(), k)
    if config.softcap is not None:
        scores = config.softcap * torch.tanh(scores / config.softcap)
    visible = attention_mask(q.shape[-3], k.shape[-3], config, index)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
        visible = visible & (mask > -math.inf)
    elif mask is not None:
        visible = visible & mask
    scores = scores.masked_fill(~visible, -math.inf)
    if sinks is not None:
        sink = sinks.double()[:, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), -1)
    weights = scores.softmax(-1).masked_fill(scores == -math.inf, 0)  # 0/0 where all are
    out = torch.einsum("...hqk,...khe->...qhe", weights[..., : k.shape[-3]], v)
    return out, scores.logsumexp(-1).transpose(-1, -2)


def attention_mask(
    num_queries: int,
    num_keys: int,
    config: AttentionConfig,
    index: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return which keys are visible to each query: bool `[Sq, Sk]`."""
    if index is None:
        index = torch.arange(num_queries) + (num_keys - num_queries), torch.arange(num_keys)
    i, j = index[0][:, None], index[1]
    distance = i - j
    visible = torch.ones_like(distance, dtype=torch.bool)
    if config.causal:
        visible &= distance >= 0
    if config.window is not None:
        visible &= (-config.window_ahead <= distance) & (distance < config.window)
    if config.chunk is not None:
        visible &= i // config.chunk == j // config.chunk
    return visible


def _radians(positions: Tensor, rope: RopeConfig) -> Tensor:
    """Return m * w_i for each token, the same for all heads: `[..., tokens, 1, pairs]`."""
    return positions.double()[..., None, None] * frequencies(rope)


def _block_diagonal(blocks: list[list[list[float]]], out: Tensor, rope: RopeConfig) -> Tensor:
    """Write blocks [[a, b], [c, d]], one for each pair, over the diagonal of `out`."""
    for i, block in enumerate(blocks):
        out[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(block, dtype=torch.float64)
    p = permutation(rope)
    return out if rope.layout == "interleaved" else p @ out @ p.T
