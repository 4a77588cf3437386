"""Float64 answers, on the device, and how far off others are."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from benchmarks import oracle
from benchmarks.gpu_cases.case import Side, Truth
from rope_core import AttentionConfig

ROTATED = {torch.float32: 1e-7, torch.float16: 2.3e-4, torch.bfloat16: 1.8e-3}
ATTENDED = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
MERGED = {torch.float32: 1e-6, torch.float16: 2.3e-4, torch.bfloat16: 1.8e-3}
LSE = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-4}

ROW = 8
"""How many times as far off as all of an answer may be, may each row of it."""

CHUNK = 4096

CAUSAL = AttentionConfig()


class Wrong(Exception):
    """An answer that is not timed."""


def check(side: Side, slack: float = 1.0) -> float:
    """Return how far off the side's first run is; bars are `slack` times as wide.

    Raises:
        Wrong: too far.
    """
    answer = side.run()
    if side.truth is None:
        return 0.0
    found = []
    expected = side.truth.tensors()
    for got, true, bar in zip(side.read(answer), expected, side.truth.bars, strict=True):
        whole, row = error(got, true)
        bar *= 1 + 4 * true.numel() ** -0.5  # of few numbers, chance makes more
        if not (whole <= bar * slack and row <= ROW * bar * slack):
            raise Wrong(f"off by {whole:.2g}, a row by {row:.2g}, where {bar * slack:.2g} may be")
        found.append(whole)
    return max(found)


def error(got: Tensor, true: Tensor) -> tuple[float, float]:
    """Return ||got - true|| / ||true|| of all, and of the worst row."""
    if got.shape != true.shape:
        raise Wrong(f"of shape {tuple(got.shape)}, not {tuple(true.shape)}")
    off = norm = worst = torch.zeros((), dtype=torch.float64, device=true.device)
    for some, part in zip(got.split(CHUNK), true.split(CHUNK), strict=True):
        # -inf is the log-sum-exp of no key, and NaN what a part that is NaN comes to
        same = (some == part) | (some.isnan() & part.isnan())
        delta = (some.double() - part).masked_fill(same, 0).square().sum(-1)
        length = part.masked_fill(same & ~part.isfinite(), 0).square().sum(-1)
        off, norm = off + delta.sum(), norm + length.sum()
        worst = torch.maximum(worst, (delta / length.clamp_min(1e-30)).max())
    return (off / norm).sqrt().item(), worst.sqrt().item()


def rotation(
    xs: Sequence[Tensor], positions: Tensor, layout: str = "half", rotary_dim: int | None = None
) -> Truth:
    """Tell the rotation of `[T, H, D]`, of which the first `rotary_dim` elements turn."""
    xs = [x.clone() for x in xs]

    def found() -> list[Tensor]:
        turned = (oracle.rotate(x[..., :rotary_dim], positions, layout=layout) for x in xs)
        kept = (x.double()[..., x.shape[-1] if rotary_dim is None else rotary_dim :] for x in xs)
        return [torch.cat(both, -1) for both in zip(turned, kept, strict=True)]

    return Truth(once(found), [ROTATED[xs[0].dtype]] * len(xs))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths_q: Sequence[int],
    lengths_k: Sequence[int],
    *,
    config: AttentionConfig = CAUSAL,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
    index: tuple[Tensor, Tensor] | None = None,
    out_dtype: torch.dtype | None = None,
) -> Truth:
    """Tell attention within packed sequences, and its log-sum-exp.

    Arguments are those of `kernels.attend`; a mask is bool or added, `[1, 1, Tq, Tk]`. Keys and
    values that are NaN count as 0: they may stand only where no query sees them.
    """

    def one(i: slice, j: slice) -> tuple[Tensor, Tensor]:
        num_q, num_k = i.stop - i.start, j.stop - j.start
        at_q = torch.arange(num_q, device=q.device) + num_k - num_q
        at_k = torch.arange(num_k, device=q.device)
        if index is not None:
            at_q, at_k = index[0][i], index[1][j]
        hidden = torch.zeros(num_q, num_k, dtype=torch.bool, device=q.device)
        distance = at_q[:, None] - at_k
        if config.causal:
            hidden |= distance < 0
        if config.window is not None:
            hidden |= distance >= config.window
        bias = None
        if mask is not None and mask.dtype == torch.bool:
            hidden |= ~mask[0, 0, i, j]
        elif mask is not None:
            bias = mask[0, 0, i, j].double()
        keys, values = k[j].nan_to_num(0), v[j].nan_to_num(0)
        return oracle.attend_lse(
            q[i], keys, values, hidden, bias=bias, softcap=config.softcap, sinks=sinks
        )

    def found() -> list[Tensor]:
        parts = zip(spans(lengths_q), spans(lengths_k), strict=True)
        answers = (one(i, j) for i, j in parts)
        return [torch.cat(each) for each in zip(*answers, strict=True)]

    # the products are of the inputs' dtype, whatever the answer is rounded to
    return Truth(once(found), [ATTENDED[q.dtype], LSE[q.dtype]])


def merging(parts: Tensor, lse: Tensor) -> Truth:
    """Tell the merge of `[N, R, D]` and `[N, R]`; what a part of weight 0 holds counts as 0."""

    def found() -> list[Tensor]:
        whole = lse.double().logsumexp(0)
        weights = (lse.double() - whole.masked_fill(whole.isinf(), 0)).exp()[..., None]
        return [(weights * parts.double().masked_fill(weights == 0, 0)).sum(0), whole]

    return Truth(once(found), [MERGED[parts.dtype], LSE[torch.float32]])


def out_alone(truth: Truth) -> Truth:
    """Tell the first tensor, of sides that give no log-sum-exp."""
    return Truth(lambda: truth.tensors()[:1], truth.bars[:1])


def spans(lengths: Sequence[int]) -> list[slice]:
    """Return where each of packed sequences lies."""
    return [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]


def once(found: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
    """Compute at the first call, and keep."""
    return cache(found)


def together(answers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the answers of packed calls as one."""
    return [torch.cat(each) for each in zip(*answers, strict=True)]
