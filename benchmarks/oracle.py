"""Rotation and attention by definition, in float64. Shares no code with the library."""

import torch
from torch import Tensor

TOLERANCE = {
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (2**-7, 2e-2),
    torch.float16: (2**-10, 2e-3),
}
"""Relative and absolute tolerance by dtype."""


def rotate(x: Tensor, positions: Tensor, theta: float = 1e4, layout: str = "half") -> Tensor:
    """Rotate `x` `[..., S, H, D]` by `positions` `[S]`.

    Pair j, as a complex number, is multiplied by e^(i * position * theta^(-2j / D)).
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    return rotate_by_angles(x, positions.double()[:, None] * frequencies, layout)


def rotate_by_angles(x: Tensor, radians: Tensor, layout: str = "half") -> Tensor:
    """Multiply each pair of `x` `[..., S, H, D]`, as a complex number, by e^(i * radians).

    radians are `[S, D/2]`, float64.
    """
    half, radians = x.shape[-1] // 2, radians[:, None]  # [S, 1, half]
    factors = torch.polar(torch.ones_like(radians), radians)
    if layout == "half":
        re, im = x.double().chunk(2, -1)
    else:
        re, im = x.double().unflatten(-1, (half, 2)).unbind(-1)
    rotated = torch.view_as_real(torch.complex(re, im) * factors)  # [..., half, 2]
    return (rotated.mT if layout == "half" else rotated).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of `[S, H, D]` over `[Sk, Hkv, D]`; the last query sees every key."""
    return attend_lse(q, k, v)[0]


def attend_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return attention `[S, H, Dv]`, and the log-sum-exp of each row of scores `[S, H]`.

    Args:
        q: `[S, H, D]`.
        k: `[Sk, Hkv, D]`.
        v: `[Sk, Hkv, Dv]`, finite.
        hidden: bool `[S, Sk]`: pairs that are masked out; the causal mask if None.
        bias: `[S, Sk]`, added to the scores.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: `[H]`: a score per head that adds to the sum of weights and has no value.
    """
    group = q.shape[1] // k.shape[1]
    offset = k.shape[0] - q.shape[0]
    if hidden is None:
        hidden = torch.ones(q.shape[0], k.shape[0], device=q.device).triu(offset + 1).bool()
    out = q.new_empty(*q.shape[:2], v.shape[-1], dtype=torch.float64)
    lse = q.new_empty(q.shape[:2], dtype=torch.float64)
    for head in range(q.shape[1]):
        keys, values = k[:, head // group].double(), v[:, head // group].double()
        scores = q[:, head].double() @ keys.T * q.shape[-1] ** -0.5
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        if bias is not None:
            scores += bias
        scores.masked_fill_(hidden, -torch.inf)
        row_lse = scores.logsumexp(-1)
        if sinks is not None:
            row_lse = torch.logaddexp(row_lse, sinks[head].double())
        lse[:, head] = row_lse
        # a row without visible keys is 0, not exp(-inf + inf)
        weights = (scores - row_lse.masked_fill(row_lse.isinf(), 0)[:, None]).exp()
        out[:, head] = weights @ values
    return out, lse


def check(name: str, actual: Tensor, expected: Tensor) -> None:
    """Compare a result with the float64 result.

    Raises:
        SystemExit: the difference exceeds the tolerance of the dtype; nothing is timed then.
    """
    rtol, atol = TOLERANCE[actual.dtype]
    try:
        torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)
    except AssertionError as exc:
        raise SystemExit(f"{name}: wrong, so not timed: {exc}") from None
