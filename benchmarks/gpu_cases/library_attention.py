"""Attention of other libraries: torch with cuDNN and with its flash kernel, FlashInfer, xformers.

Functions that return several factories only list them; a factory raises `Unavailable` if its
library is missing or does not support the call.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.case import Provider, ProviderFactory, Reference
from benchmarks.gpu_cases.kernels import cu_seqlens
from benchmarks.gpu_cases.packages import Unavailable, load
from benchmarks.gpu_cases.reference import concatenate, without_lse

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
WORKSPACE_BYTES = 2**27


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, batch: int, expected: Reference, backend: str = "cudnn"
) -> Provider:
    """Attend with torch, causal, over `batch` sequences of equal length packed in `[T, H, D]`."""
    qkv = _split_batch(batch, q, k, v)
    gqa = q.shape[1] != k.shape[1]

    def run() -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=gqa)

    return Provider(f"SDPA {backend}", run, without_lse(expected), _pack_output, is_ours=False)


def cudnn(q: Tensor, k: Tensor, v: Tensor, batch: int, expected: Reference) -> Provider:
    """Attend with cuDNN, causal, and return the log-sum-exp, which torch's public API drops."""
    qkv = _split_batch(batch, q, k, v)

    def run() -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *qkv, None, True, 0.0, True
        )
        return out, lse

    def to_tensors(result: tuple[Tensor, Tensor]) -> list[Tensor]:
        out, lse = result  # [B, H, S, D], [B, H, S, 1]
        return [*_pack_output(out), lse.reshape(out.shape[:3]).transpose(1, 2).flatten(0, 1)]

    return Provider("cuDNN, lse", run, expected, to_tensors, is_ours=False)


def _split_batch(batch: int, *packed: Tensor) -> list[Tensor]:
    """Convert packed sequences of equal length from `[B * S, H, D]` to `[B, H, S, D]`."""
    return [x.unflatten(0, (batch, -1)).transpose(1, 2) for x in packed]


def _pack_output(out: Tensor) -> list[Tensor]:
    """Convert `[B, H, S, D]` to `[B * S, H, D]`."""
    return [out.transpose(1, 2).flatten(0, 1)]


def check_available(provider: Provider) -> None:
    """Run a provider once.

    Raises:
        Unavailable: the provider does not run on this machine.
    """
    try:
        provider.run()
    except RuntimeError as exc:
        raise Unavailable(f"{provider.name}: {exc}".splitlines()[0]) from None


def prefills(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    expected: Reference,
    equal_lengths: bool = True,
) -> Sequence[ProviderFactory]:
    """List providers of causal attention within packed sequences `[T, H, D]`."""

    def flash() -> Provider:
        return sdpa(q, k, v, len(lengths), expected, "flash")

    def xformers() -> Provider:
        fmha = load("xformers")
        bias = fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths, device=q.device)
        return _xformers(fmha, q, k, v, bias, expected)

    if q.dtype == torch.float32:
        return []
    return [flash, xformers] if equal_lengths else [xformers]


def packed_decodes(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers of attention from one query per sequence over packed keys."""

    def xformers() -> Provider:
        fmha = load("xformers")
        starts = cu_seqlens(lengths, torch.device("cpu")).tolist()
        mask = fmha.attn_bias.BlockDiagonalCausalWithOffsetGappyKeysMask
        bias = mask.from_seqlens([1] * len(lengths), starts, list(lengths), device=q.device)
        return _xformers(fmha, q, k, v, bias, expected, fmha.triton_splitk.FwOp)

    if q.dtype == torch.float32:
        return []
    single = [lambda: _sdpa_decode(q, k, v, expected)] if len(lengths) == 1 else []
    return [*single, xformers]


def graph_decodes(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers that decode each sequence with a separate call, all in one CUDA graph."""
    ks, vs = k.split(list(lengths)), v.split(list(lengths))

    def graph() -> Provider:
        sequences = zip(q.split(1), ks, vs, strict=True)
        providers = [_sdpa_decode(*qkv, expected) for qkv in sequences]
        run = cuda_timing.capture_graph([provider.run for provider in providers])
        to_tensors = lambda results: concatenate(map(_pack_output, results))  # noqa: E731
        return Provider("SDPA", run, without_lse(expected), to_tensors)

    return [graph]


def _sdpa_decode(q: Tensor, k: Tensor, v: Tensor, expected: Reference) -> Provider:
    qkv = [x[None].transpose(1, 2) for x in (q, k, v)]  # not causal: the query sees every key
    run = lambda: F.scaled_dot_product_attention(*qkv, enable_gqa=True)  # noqa: E731
    return Provider("SDPA", run, without_lse(expected), _pack_output)


def _xformers(
    fmha: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, expected: Reference, op: Any = None
) -> Provider:
    group = q.shape[1] // k.shape[1]
    grouped = q.unflatten(1, (-1, group))[None]  # [1, T, Hkv, G, D]
    keys, values = (x[None, :, :, None].expand(-1, -1, -1, group, -1) for x in (k, v))
    if group == 1:
        grouped, keys, values = (x[:, :, :, 0] for x in (grouped, keys, values))

    def run() -> Tensor:
        return fmha.memory_efficient_attention_forward(grouped, keys, values, bias, op=op)

    return Provider("xformers", run, without_lse(expected), lambda out: [out[0].reshape(q.shape)])


def paged_decodes(
    q: Tensor, pages: Tensor, block_table: Tensor, lengths: Sequence[int], expected: Reference
) -> Sequence[ProviderFactory]:
    """List providers of decode over pages `[pages, 2, Hkv, page_size, D]`."""

    def flashinfer() -> Provider:
        package = load("flashinfer-python")
        kv_heads, page_size = pages.shape[2:4]
        counts = [-(-length // page_size) for length in lengths]
        blocks = torch.cat([row[:n] for row, n in zip(block_table, counts, strict=True)])
        last = [length - (n - 1) * page_size for length, n in zip(lengths, counts, strict=True)]
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=q.device)
        wrapper = package.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
        wrapper.plan(
            cu_seqlens(counts, q.device),
            blocks,
            torch.tensor(last, dtype=torch.int32, device=q.device),
            *(q.shape[1], kv_heads, q.shape[2], page_size),
            q_data_type=q.dtype,
            kv_data_type=pages.dtype,
        )
        # FlashInfer multiplies unused slots by 0, and 0 * NaN is NaN
        finite = pages.nan_to_num(0.0)
        run = lambda: wrapper.run(q, finite)  # noqa: E731
        return Provider("FlashInfer", run, without_lse(expected), lambda out: [out])

    return [flashinfer]
