"""What others offer for the same work: torch itself, Liger, FlashInfer and xformers.

A function returns what makes the sides that there may be; making one says why there is none.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import plain, table
from benchmarks.gpu_cases import clock
from benchmarks.gpu_cases.case import Side, Truth
from benchmarks.gpu_cases.kernels import cumulative
from benchmarks.gpu_cases.truth import out_alone, together

Makes = Sequence[Callable[[], Side]]
Tensors = Sequence[Tensor]

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
PACKAGES = {
    "liger-kernel": "liger_kernel.ops.rope",
    "flashinfer-python": "flashinfer",
    "xformers": "xformers.ops",
}
FLASHINFER_WORKSPACE = 2**27


class Missing(Exception):
    """There is no such side here."""


def found() -> dict[str, str]:
    """Return the version of each package, or why it is not taken."""
    return {name: _found(name, module) for name, module in PACKAGES.items()}


def _found(name: str, module: str) -> str:
    try:
        _import(module)
    except Missing as why:
        return f"missing: {why}"
    return table.versions(name).get(name, "of no version")


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except Exception as why:  # a package may fail in any way where it does not fit the machine
        raise Missing(f"{type(why).__name__}: {why}".splitlines()[0]) from None


def rotations(xs: Tensors, ids: Tensor, tables: Tensors, layout: str, told: Truth) -> Makes:
    """Rotate `[T, H, D]` by rows `ids` of tables `[rows, 1, D]`; Liger's are gathered beforehand."""
    turn = plain.rotate if layout == "half" else plain.rotate_pairs

    def eager() -> list[Tensor]:
        cos, sin = (t[ids] for t in tables)
        return [turn(x, cos, sin).to(x.dtype) for x in xs]

    def compiled() -> Side:
        if not xs[0].is_cuda:
            raise Missing("not in a dry run")
        return Side("torch.compile", torch.compile(eager, dynamic=False), told)

    def liger() -> Side:
        if layout != "half":
            raise Missing("half-split alone")
        forward = _import(PACKAGES["liger-kernel"]).rope_forward
        cos, sin = (t[ids].transpose(0, 1) for t in tables)  # [1, T, D]
        q, k = (x.clone()[None].transpose(1, 2) for x in xs)  # turned in place
        return Side("Liger", lambda: forward(q, k, cos, sin), told, _of_liger)

    makes = [lambda: Side("torch eager", eager, told), compiled, liger]
    return [*makes, lambda: _flashinfer_rotation(xs, ids, tables, layout, told)]


def small_rotations(xs: Tensors, ids: Tensor, tables: Tensors, told: Truth) -> Makes:
    """Rotate one token in each of the runs of a graph."""
    ones = [([x[i : i + 1] for x in xs], ids[i : i + 1]) for i in range(len(ids))]

    def graph(of: int) -> Side:
        sides = [rotations(*one, tables, "half", told)[of]() for one in ones]
        run = clock.graphed([side.run for side in sides])
        return Side(sides[0].name, run, told, lambda got: together([sides[0].read(x) for x in got]))

    return [lambda: graph(0), lambda: graph(-1)]


def _of_liger(answer: Any) -> list[Tensor]:
    return [x[0].transpose(0, 1) for x in answer[:2]]


def _flashinfer_rotation(
    xs: Tensors, ids: Tensor, tables: Tensors, layout: str, told: Truth
) -> Side:
    package = _import("flashinfer")
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
        merge = _import("flashinfer").merge_states
        x = parts.unflatten(1, (-1, heads)).transpose(0, 1).contiguous()
        base2 = lse.unflatten(1, (-1, heads)).transpose(0, 1).contiguous() * math.log2(math.e)
        scale = math.log(2)
        read = lambda got: (got[0].flatten(0, 1), got[1].flatten() * scale)  # noqa: E731
        return Side("FlashInfer", lambda: merge(x, base2), told, read)

    def xformers() -> Side:
        merge = _import("xformers.ops.fmha").merge_attentions
        x = parts.unflatten(1, (-1, heads))[:, None]
        natural = lse.unflatten(1, (-1, heads)).mT.contiguous()[:, None]
        read = lambda got: (got[0].flatten(0, 2), got[1][0].mT.flatten())  # noqa: E731
        return Side("xformers", lambda: merge(x, natural), told, read)

    return [lambda: Side("torch eager", eager, told), flashinfer, xformers]


def sdpa(q: Tensor, k: Tensor, v: Tensor, batch: int, backend: str, told: Truth) -> Side:
    """Attend causally within sequences of one length, by one backend of torch's own."""
    qkv = [x.unflatten(0, (batch, -1)).transpose(1, 2) for x in (q, k, v)]
    gqa = q.shape[1] != k.shape[1]

    def run() -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=gqa)

    return Side(f"SDPA {backend}", run, out_alone(told), _tokens_first)


def _tokens_first(answer: Tensor) -> list[Tensor]:
    return [answer.transpose(1, 2).flatten(0, 1)]


def prompts(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], told: Truth, even: bool = True
) -> Makes:
    """Attend causally within packed sequences."""

    def xformers() -> Side:
        fmha = _import("xformers.ops.fmha")
        bias = fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths, device=q.device)
        return _xformers(fmha, q, k, v, bias, told)

    flash = [lambda: sdpa(q, k, v, len(lengths), "flash", told)] if even else []
    return [*flash, xformers] if q.dtype != torch.float32 else []


def packed_decodes(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], told: Truth) -> Makes:
    """Attend from one query of each sequence over packed keys."""

    def xformers() -> Side:
        fmha = _import("xformers.ops.fmha")
        starts = cumulative(lengths, torch.device("cpu")).tolist()
        mask = fmha.attn_bias.BlockDiagonalCausalWithOffsetGappyKeysMask
        bias = mask.from_seqlens([1] * len(lengths), starts, list(lengths), device=q.device)
        return _xformers(fmha, q, k, v, bias, told, fmha.triton_splitk.FwOp)

    if q.dtype == torch.float32:
        return []
    alone = [lambda: _sdpa_decode(q, k, v, told)] if len(lengths) == 1 else []
    return [*alone, xformers]


def small_decodes(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], told: Truth) -> Makes:
    """Attend from one query of each sequence in each of the runs of a graph."""
    ks, vs = k.split(list(lengths)), v.split(list(lengths))

    def graph() -> Side:
        ones = zip(q.split(1), ks, vs, strict=True)
        sides = [_sdpa_decode(*one, told) for one in ones]
        run = clock.graphed([side.run for side in sides])
        return Side("SDPA", run, out_alone(told), lambda got: together(map(_tokens_first, got)))

    return [graph]


def _sdpa_decode(q: Tensor, k: Tensor, v: Tensor, told: Truth) -> Side:
    qkv = [x[None].transpose(1, 2) for x in (q, k, v)]  # the one query sees every key
    run = lambda: F.scaled_dot_product_attention(*qkv, enable_gqa=True)  # noqa: E731
    return Side("SDPA", run, out_alone(told), _tokens_first)


def _xformers(
    fmha: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, told: Truth, op: Any = None
) -> Side:
    group = q.shape[1] // k.shape[1]
    grouped = q.unflatten(1, (-1, group))[None]  # [1, T, Hkv, G, D]
    keys, values = (x[None, :, :, None].expand(-1, -1, -1, group, -1) for x in (k, v))
    if group == 1:
        grouped, keys, values = (x[:, :, :, 0] for x in (grouped, keys, values))

    def run() -> Tensor:
        return fmha.memory_efficient_attention_forward(grouped, keys, values, bias, op=op)

    return Side("xformers", run, out_alone(told), lambda got: [got[0].reshape(q.shape)])


def paged_decodes(
    q: Tensor, slab: Tensor, table: Tensor, lengths: Sequence[int], told: Truth
) -> Makes:
    """Attend from one query of each sequence over pages `[pages, 2, Hkv, page_size, D]`."""

    def flashinfer() -> Side:
        package = _import("flashinfer")
        kv_heads, page_size = slab.shape[2:4]
        counts = [-(-length // page_size) for length in lengths]
        pages = torch.cat([row[:n] for row, n in zip(table, counts, strict=True)])
        last = [length - (n - 1) * page_size for length, n in zip(lengths, counts, strict=True)]
        workspace = torch.zeros(FLASHINFER_WORKSPACE, dtype=torch.uint8, device=q.device)
        wrapper = package.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
        wrapper.plan(
            cumulative(counts, q.device),
            pages,
            torch.tensor(last, dtype=torch.int32, device=q.device),
            *(q.shape[1], kv_heads, q.shape[2], page_size),
            q_data_type=q.dtype,
            kv_data_type=slab.dtype,
        )
        return Side("FlashInfer", lambda: wrapper.run(q, slab), out_alone(told), lambda got: [got])

    return [flashinfer]
