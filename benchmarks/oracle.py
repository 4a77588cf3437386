"""Rotation and attention from their definitions, in float64; shares no code with the library."""

import torch
from torch import Tensor

TOLERANCE = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (2**-7, 2e-2)}
"""Relative and absolute."""


def rotate(x: Tensor, positions: Tensor, theta: float = 1e4, layout: str = "half") -> Tensor:
    """Multiply each pair of `x` `[..., S, H, D]`, as a complex number, by e^(i position theta_j).

    theta_j is theta^(-2j / D), the angular frequency of pair j.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    return turn(x, positions.double()[:, None] * frequencies, layout)


def turn(x: Tensor, radians: Tensor, layout: str = "half") -> Tensor:
    """Multiply each pair of `x` `[..., S, H, D]`, as a complex number, by e^(i radians).

    radians are `[S, D/2]`.
    """
    half, radians = x.shape[-1] // 2, radians[:, None]  # [S, 1, half]
    by = torch.polar(torch.ones_like(radians), radians)
    if layout == "half":
        re, im = x.double().chunk(2, -1)
    else:
        re, im = x.double().unflatten(-1, (half, 2)).unbind(-1)
    turned = torch.view_as_real(torch.complex(re, im) * by)  # [..., half, 2]
    return (turned.mT if layout == "half" else turned).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention of `[S, H, D]` over `[Sk, Hkv, D]`; the last query sees every key."""
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
    """Return attention, and the log-sum-exp of each row of scores `[S, H]`.

    Args:
        q: `[S, H, D]`.
        k: `[Sk, Hkv, D]`.
        v: `[Sk, Hkv, Dv]`, finite.
        hidden: bool `[S, Sk]`: scores that count for nothing; what is not causal where None.
        bias: `[S, Sk]`, added to the scores.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: `[H]`: a score of each head that brings no value.
    """
    group = q.shape[1] // k.shape[1]
    lead = k.shape[0] - q.shape[0]
    if hidden is None:
        hidden = torch.ones(q.shape[0], k.shape[0], device=q.device).triu(lead + 1).bool()
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
        total = scores.logsumexp(-1)
        if sinks is not None:
            total = torch.logaddexp(total, sinks[head].double())
        lse[:, head] = total
        # a row that sees nothing is 0, not exp(-inf + inf)
        weights = (scores - total.masked_fill(total.isinf(), 0)[:, None]).exp()
        out[:, head] = weights @ values
    return out, lse


def check(name: str, got: Tensor, expected: Tensor) -> None:
    """Compare an answer with the float64 one.

    Raises:
        SystemExit: they differ by more than its dtype explains; nothing is timed then.
    """
    rtol, atol = TOLERANCE[got.dtype]
    try:
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)
    except AssertionError as wrong:
        raise SystemExit(f"{name}: wrong, so not timed: {wrong}") from None
