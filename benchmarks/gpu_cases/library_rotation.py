"""How others rotate and merge: torch itself, Liger, FlashInfer and xformers.

A function returns what makes the sides that there may be; making one says why there is none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Side, Truth
from benchmarks.gpu_cases.packages import Missing, load
from benchmarks.gpu_cases.reference import together

Makes = Sequence[Callable[[], Side]]
Tensors = Sequence[Tensor]


def rotations(xs: Tensors, ids: Tensor, tables: Tensors, layout: str, told: Truth) -> Makes:
    """Rotate `[T, H, D]` by rows `ids` of tables `[rows, 1, D]`; for Liger they lie in order."""
    eager = _eager(xs, ids, tables, layout)

    def liger() -> Side:
        if layout != "half":
            raise Missing("half-split alone")
        forward = load("liger-kernel").rope_forward
        cos, sin = (t[ids].transpose(0, 1) for t in tables)  # [1, T, D]
        q, k = (x.clone()[None].transpose(1, 2) for x in xs)  # turned in place
        return Side("Liger", lambda: forward(q, k, cos, sin), told, _of_liger)

    makes = [lambda: Side("torch eager", eager, told), liger]
    return [*makes, lambda: _flashinfer_rotation(xs, ids, tables, layout, told)]


def compiled(xs: Tensors, ids: Tensor, tables: Tensors, layout: str, told: Truth) -> Makes:
    """Rotate as `rotations` does, by torch.compile, which takes many seconds to build it."""
    eager = _eager(xs, ids, tables, layout)
    return [lambda: Side("torch.compile", torch.compile(eager, dynamic=False), told)]


def _eager(xs: Tensors, ids: Tensor, tables: Tensors, layout: str) -> Callable[[], list[Tensor]]:
    turn = torch_baseline.rotate if layout == "half" else torch_baseline.rotate_pairs

    def eager() -> list[Tensor]:
        cos, sin = (t[ids] for t in tables)
        return [turn(x, cos, sin).to(x.dtype) for x in xs]

    return eager


def small_rotations(xs: Tensors, ids: Tensor, tables: Tensors, told: Truth) -> Makes:
    """Rotate one token in each of the runs of a graph."""
    ones = [([x[i : i + 1] for x in xs], ids[i : i + 1]) for i in range(len(ids))]

    def graph(of: int) -> Side:
        sides = [rotations(*one, tables, "half", told)[of]() for one in ones]
        run = cuda_timing.graphed([side.run for side in sides])
        return Side(sides[0].name, run, told, lambda got: together([sides[0].read(x) for x in got]))

    return [lambda: graph(0), lambda: graph(-1)]


def _of_liger(answer: Any) -> list[Tensor]:
    return [x[0].transpose(0, 1) for x in answer[:2]]


def _flashinfer_rotation(
    xs: Tensors, ids: Tensor, tables: Tensors, layout: str, told: Truth
) -> Side:
    package = load("flashinfer-python")
    width = xs[0].shape[-1]
    if xs[0].dtype == torch.float32:
        raise Missing("16 bits alone")
    both = torch.cat([t[:, 0, : width // 2] for t in tables], -1)
    flat = [x.flatten(1) for x in xs]
    rotate = package.apply_rope_with_cos_sin_cache

    def run() -> Tensors:
        return rotate(ids, *flat, width, both, is_neox=layout == "half")

    return Side("FlashInfer", run, told, lambda got: [x.unflatten(1, (-1, width)) for x in got])


def merges(parts: Tensor, lse: Tensor, heads: int, told: Truth) -> Makes:
    """Merge `[N, T * H, D]`; FlashInfer and xformers have their own order of axes, and scale."""

    def eager() -> tuple[Tensor, Tensor]:
        whole = lse.logsumexp(0)
        weights = (lse - whole).exp()[..., None]
        return (weights * parts).sum(0).to(parts.dtype), whole

    def flashinfer() -> Side:
        merge = load("flashinfer-python").merge_states
        x = parts.unflatten(1, (-1, heads)).transpose(0, 1).contiguous()
        base2 = lse.unflatten(1, (-1, heads)).transpose(0, 1).contiguous() * math.log2(math.e)
        scale = math.log(2)
        read = lambda got: (got[0].flatten(0, 1), got[1].flatten() * scale)  # noqa: E731
        return Side("FlashInfer", lambda: merge(x, base2), told, read)

    def xformers() -> Side:
        merge = load("xformers").merge_attentions
        x = parts.unflatten(1, (-1, heads))[:, None]
        natural = lse.unflatten(1, (-1, heads)).mT.contiguous()[:, None]
        read = lambda got: (got[0].flatten(0, 2), got[1][0].mT.flatten())  # noqa: E731
        return Side("xformers", lambda: merge(x, natural), told, read)

    return [lambda: Side("torch eager", eager, told), flashinfer, xformers]
