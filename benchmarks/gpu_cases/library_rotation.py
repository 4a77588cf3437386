"""Rotation and merge of other libraries: torch, Liger, FlashInfer and xformers.

Functions here only list factories; a factory raises `Unavailable` if its library is missing or
does not support the call.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Provider, ProviderFactory, Reference
from benchmarks.gpu_cases.packages import Unavailable, load
from benchmarks.gpu_cases.reference import concatenate

Tensors = Sequence[Tensor]


def rotations(
    xs: Tensors, positions: Tensor, tables: Tensors, layout: str, expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers that rotate `[T, H, D]` with rows of tables `[rows, 1, D]`.

    Liger takes no positions, so its tables are gathered beforehand.
    """
    eager = _eager(xs, positions, tables, layout)

    def liger() -> Provider:
        if layout != "half":
            raise Unavailable("Liger supports only the layout half")
        forward = load("liger-kernel").rope_forward
        cos, sin = (t[positions].transpose(0, 1) for t in tables)  # [1, T, D]
        q, k = (x.clone()[None].transpose(1, 2) for x in xs)  # rotated in place
        return Provider("Liger", lambda: forward(q, k, cos, sin), expected, _liger_tensors)

    return [
        lambda: Provider("torch eager", eager, expected),
        liger,
        lambda: _flashinfer_rotation(xs, positions, tables, layout, expected),
    ]


def compiled(
    xs: Tensors, positions: Tensor, tables: Tensors, layout: str, expected: Reference
) -> Sequence[ProviderFactory]:
    """List torch.compile, which takes many seconds to compile; arguments as of `rotations`."""
    eager = _eager(xs, positions, tables, layout)
    return [lambda: Provider("torch.compile", torch.compile(eager, dynamic=False), expected)]


def _eager(
    xs: Tensors, positions: Tensor, tables: Tensors, layout: str
) -> Callable[[], list[Tensor]]:
    rotate = torch_baseline.rotate if layout == "half" else torch_baseline.rotate_interleaved

    def eager() -> list[Tensor]:
        cos, sin = (t[positions] for t in tables)
        return [rotate(x, cos, sin).to(x.dtype) for x in xs]

    return eager


def graph_rotations(
    xs: Tensors, positions: Tensor, tables: Tensors, expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers that rotate each token with a separate call, all in one CUDA graph."""
    tokens = [([x[i : i + 1] for x in xs], positions[i : i + 1]) for i in range(len(positions))]

    def graph(index: int) -> Provider:
        providers = [rotations(*token, tables, "half", expected)[index]() for token in tokens]
        run = cuda_timing.capture_graph([provider.run for provider in providers])
        to_tensors = providers[0].to_tensors
        return Provider(
            providers[0].name, run, expected, lambda results: concatenate(map(to_tensors, results))
        )

    return [lambda: graph(0), lambda: graph(-1)]


def _liger_tensors(result: Any) -> list[Tensor]:
    return [x[0].transpose(0, 1) for x in result[:2]]


def _flashinfer_rotation(
    xs: Tensors, positions: Tensor, tables: Tensors, layout: str, expected: Reference
) -> Provider:
    package = load("flashinfer-python")
    head_dim = xs[0].shape[-1]
    if xs[0].dtype == torch.float32:
        raise Unavailable("FlashInfer supports only 16-bit types")
    cos_sin = torch.cat([t[:, 0, : head_dim // 2] for t in tables], -1)
    flat = [x.flatten(1) for x in xs]
    rotate = package.apply_rope_with_cos_sin_cache

    def run() -> Tensors:
        return rotate(positions, *flat, head_dim, cos_sin, is_neox=layout == "half")

    return Provider(
        "FlashInfer", run, expected, lambda outs: [x.unflatten(1, (-1, head_dim)) for x in outs]
    )


def merges(
    parts: Tensor, lse: Tensor, heads: int, expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers that merge `[N, T * H, D]`.

    FlashInfer takes `[T, N, H, D]` and log-sum-exps of base 2, xformers `[N, 1, T, H, D]`.
    """

    def eager() -> tuple[Tensor, Tensor]:
        merged_lse = lse.logsumexp(0)
        weights = (lse - merged_lse).exp()[..., None]
        return (weights * parts).sum(0).to(parts.dtype), merged_lse

    def flashinfer() -> Provider:
        merge = load("flashinfer-python").merge_states
        x = parts.unflatten(1, (-1, heads)).transpose(0, 1).contiguous()
        lse_base2 = lse.unflatten(1, (-1, heads)).transpose(0, 1).contiguous() * math.log2(math.e)
        scale = math.log(2)
        to_tensors = lambda result: (result[0].flatten(0, 1), result[1].flatten() * scale)  # noqa: E731
        return Provider("FlashInfer", lambda: merge(x, lse_base2), expected, to_tensors)

    def xformers() -> Provider:
        merge = load("xformers").merge_attentions
        x = parts.unflatten(1, (-1, heads))[:, None]
        natural_lse = lse.unflatten(1, (-1, heads)).mT.contiguous()[:, None]
        to_tensors = lambda result: (result[0].flatten(0, 2), result[1][0].mT.flatten())  # noqa: E731
        return Provider("xformers", lambda: merge(x, natural_lse), expected, to_tensors)

    return [lambda: Provider("torch eager", eager, expected), flashinfer, xformers]
