"""Reference results in float64, computed on the device, and the check of results against them."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from benchmarks import oracle
from benchmarks.gpu_cases.case import Provider, Reference
from rope_core import AttentionConfig

ROTATION_TOLERANCE = {torch.float32: 1e-7, torch.float16: 2.3e-4, torch.bfloat16: 1.8e-3}
ATTENTION_TOLERANCE = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
MERGE_TOLERANCE = {torch.float32: 1e-6, torch.float16: 2.3e-4, torch.bfloat16: 1.8e-3}
LSE_TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-4}

ROW_FACTOR = 8
"""The error of one row may be this many times the tolerance of the whole tensor."""

CHUNK_ROWS = 4096

CAUSAL = AttentionConfig()


class WrongAnswer(Exception):
    """A result is outside its tolerance."""


def check(provider: Provider, slack: float = 1.0) -> float:
    """Run a provider once and return its largest relative error; 0 for a floor.

    Args:
        provider: what to run.
        slack: factor on the tolerances.

    Raises:
        WrongAnswer: the error exceeds the tolerance.
    """
    result = provider.run()
    if provider.expected is None:
        return 0.0
    errors = []
    tensors, tolerances = provider.expected.tensors(), provider.expected.tolerances
    for actual, expected, tolerance in zip(
        provider.to_tensors(result), tensors, tolerances, strict=True
    ):
        total, worst_row = error(actual, expected)
        limit = tolerance * slack * (1 + 4 * expected.numel() ** -0.5)  # small tensors vary more
        if not (total <= limit and worst_row <= ROW_FACTOR * limit):
            raise WrongAnswer(
                f"relative error {total:.2g}, worst row {worst_row:.2g}, tolerance {limit:.2g}"
            )
        errors.append(total)
    return max(errors)


def error(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return ||actual - expected|| / ||expected|| of the whole tensor and of the worst row.

    Args:
        actual: any dtype, `[..., D]`.
        expected: float64, of the same shape. Its infinities and NaN must be equal in `actual`.

    Raises:
        WrongAnswer: the shapes differ.
    """
    if actual.shape != expected.shape:
        raise WrongAnswer(f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    difference = norm = worst_row = expected.new_zeros((), dtype=torch.float64)
    chunks = zip(actual.split(CHUNK_ROWS), expected.split(CHUNK_ROWS), strict=True)
    for actual_chunk, expected_chunk in chunks:
        equal = (actual_chunk == expected_chunk) | (actual_chunk.isnan() & expected_chunk.isnan())
        delta = (actual_chunk.double() - expected_chunk).masked_fill(equal, 0)
        row_difference = delta.square().sum(-1)
        finite = expected_chunk.masked_fill(equal & ~expected_chunk.isfinite(), 0)
        row_norm = finite.square().sum(-1)
        difference, norm = difference + row_difference.sum(), norm + row_norm.sum()
        worst_row = torch.maximum(worst_row, (row_difference / row_norm.clamp_min(1e-30)).max())
    return (difference / norm).sqrt().item(), worst_row.sqrt().item()


def rotation(
    xs: Sequence[Tensor], positions: Tensor, layout: str = "half", rotary_dim: int | None = None
) -> Reference:
    """Reference of a rotation of the first `rotary_dim` elements of each head of `[T, H, D]`."""
    xs = [x.clone() for x in xs]
    rotary_dim = xs[0].shape[-1] if rotary_dim is None else rotary_dim

    @cache
    def compute() -> list[Tensor]:
        rotated = (oracle.rotate(x[..., :rotary_dim], positions, layout=layout) for x in xs)
        rest = (x.double()[..., rotary_dim:] for x in xs)
        return [torch.cat(both, -1) for both in zip(rotated, rest, strict=True)]

    return Reference(compute, [ROTATION_TOLERANCE[xs[0].dtype]] * len(xs))


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
) -> Reference:
    """Reference of attention within packed sequences, and of its log-sum-exp.

    Arguments are those of `kernels.attend`. A mask is bool or additive, `[1, 1, Tq, Tk]`. NaN keys
    and values count as 0; no query may see them. The tolerance depends on the dtype of q,
    not on `out_dtype`, because the kernel multiplies in the dtype of q.
    """

    def attend_sequence(queries: slice, keys: slice) -> tuple[Tensor, Tensor]:
        num_q, num_k = queries.stop - queries.start, keys.stop - keys.start
        index_q = torch.arange(num_q, device=q.device) + num_k - num_q
        index_k = torch.arange(num_k, device=q.device)
        if index is not None:
            index_q, index_k = index[0][queries], index[1][keys]
        hidden = torch.zeros(num_q, num_k, dtype=torch.bool, device=q.device)
        distance = index_q[:, None] - index_k
        if config.causal:
            hidden |= distance < 0
        if config.window is not None:
            hidden |= distance >= config.window
        bias = None
        if mask is not None and mask.dtype == torch.bool:
            hidden |= ~mask[0, 0, queries, keys]
        elif mask is not None:
            bias = mask[0, 0, queries, keys].double()
        finite_k, finite_v = k[keys].nan_to_num(0), v[keys].nan_to_num(0)
        return oracle.attend_lse(
            q[queries], finite_k, finite_v, hidden, bias=bias, softcap=config.softcap, sinks=sinks
        )

    @cache
    def compute() -> list[Tensor]:
        slices = zip(seq_slices(lengths_q), seq_slices(lengths_k), strict=True)
        return concatenate(attend_sequence(queries, keys) for queries, keys in slices)

    return Reference(compute, [ATTENTION_TOLERANCE[q.dtype], LSE_TOLERANCE[q.dtype]])


def merge(parts: Tensor, lse: Tensor) -> Reference:
    """Reference of a merge of `[N, R, D]` and `[N, R]`. A part of weight 0 may contain NaN."""

    @cache
    def compute() -> list[Tensor]:
        merged_lse = lse.double().logsumexp(0)
        weights = (lse.double() - merged_lse.masked_fill(merged_lse.isinf(), 0)).exp()[..., None]
        merged = (weights * parts.double().masked_fill(weights == 0, 0)).sum(0)
        return [merged, merged_lse]

    return Reference(compute, [MERGE_TOLERANCE[parts.dtype], LSE_TOLERANCE[torch.float32]])


def without_lse(expected: Reference) -> Reference:
    """Keep the first tensor, for a provider that returns no log-sum-exp."""
    return Reference(lambda: expected.tensors()[:1], expected.tolerances[:1])


def seq_slices(lengths: Sequence[int]) -> list[slice]:
    """Return the slice of each packed sequence."""
    return [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]


def concatenate(results: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Concatenate the tensors of several calls, result by result."""
    return [torch.cat(tensors) for tensors in zip(*results, strict=True)]
