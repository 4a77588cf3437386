"""How others attend: torch by cuDNN and by its flash kernel, FlashInfer and xformers.

A function returns what makes the sides that there may be; making one says why there is none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Side, Truth
from benchmarks.gpu_cases.kernels import cumulative
from benchmarks.gpu_cases.packages import Missing, load
from benchmarks.gpu_cases.reference import out_alone, together

Makes = Sequence[Callable[[], Side]]

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
WORKSPACE = 2**27


def sdpa(q: Tensor, k: Tensor, v: Tensor, batch: int, told: Truth, backend: str = "cudnn") -> Side:
    """Attend causally within sequences of one length, by one backend of torch's own."""
    qkv = _heads_first(batch, q, k, v)
    gqa = q.shape[1] != k.shape[1]

    def run() -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=gqa)

    return Side(f"SDPA {backend}", run, out_alone(told), _tokens_first, ours=False)


def cudnn(q: Tensor, k: Tensor, v: Tensor, batch: int, told: Truth) -> Side:
    """Attend causally by cuDNN, with the log-sum-exp, which the public function does not return."""
    qkv = _heads_first(batch, q, k, v)

    def run() -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *qkv, None, True, 0.0, True
        )
        return out, lse

    def read(answer: tuple[Tensor, Tensor]) -> list[Tensor]:
        out, lse = answer  # lse is [B, H, S, 1]
        return [*_tokens_first(out), lse.reshape(out.shape[:3]).transpose(1, 2).flatten(0, 1)]

    return Side("cuDNN, lse", run, told, read, ours=False)


def _heads_first(batch: int, *packed: Tensor) -> list[Tensor]:
    """Return `[B, H, S, D]` of packed sequences of one length."""
    return [x.unflatten(0, (batch, -1)).transpose(1, 2) for x in packed]


def probe(side: Side) -> None:
    """Run a side once.

    Raises:
        Missing: it does not run here.
    """
    try:
        side.run()
    except RuntimeError as why:
        raise Missing(f"{side.name}: {why}".splitlines()[0]) from None


def _tokens_first(answer: Tensor) -> list[Tensor]:
    return [answer.transpose(1, 2).flatten(0, 1)]


def prompts(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], told: Truth, even: bool = True
) -> Makes:
    """Attend causally within packed sequences."""

    def xformers() -> Side:
        fmha = load("xformers")
        bias = fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths, device=q.device)
        return _xformers(fmha, q, k, v, bias, told)

    flash = [lambda: sdpa(q, k, v, len(lengths), told, "flash")] if even else []
    return [*flash, xformers] if q.dtype != torch.float32 else []


def packed_decodes(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], told: Truth) -> Makes:
    """Attend from one query of each sequence over packed keys."""

    def xformers() -> Side:
        fmha = load("xformers")
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
        run = cuda_timing.graphed([side.run for side in sides])
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
        package = load("flashinfer-python")
        kv_heads, page_size = slab.shape[2:4]
        counts = [-(-length // page_size) for length in lengths]
        pages = torch.cat([row[:n] for row, n in zip(table, counts, strict=True)])
        last = [length - (n - 1) * page_size for length, n in zip(lengths, counts, strict=True)]
        workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=q.device)
        wrapper = package.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
        wrapper.plan(
            cumulative(counts, q.device),
            pages,
            torch.tensor(last, dtype=torch.int32, device=q.device),
            *(q.shape[1], kv_heads, q.shape[2], page_size),
            q_data_type=q.dtype,
            kv_data_type=slab.dtype,
        )
        # it multiplies what no key fills by 0, and 0 * NaN is NaN
        filled = slab.nan_to_num(0.0)
        run = lambda: wrapper.run(q, filled)  # noqa: E731
        return Side("FlashInfer", run, out_alone(told), lambda got: [got])

    return [flashinfer]
