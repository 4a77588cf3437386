"""Attention over packed sequences, whose keys and values may be in pages.

A kernel is compiled for each of these, and for nothing else: numbers of tokens, sequences and
heads, the group size, strides, scale, windows, chunks, sinks and positions are arguments.

- attention: dtype of q, k and v; their two widths; no mask, a boolean one, or an additive one;
  positions in tensors or not; soft-cap or not; and one of
  - prefill, with out in the dtype of q or in float32;
  - splits of the keys, with the tile "decode" or "append".
- merge: width of v; dtype of out.

Each once more for packed keys and for each page size, and for rows that do not start at multiples
of 16 bytes, which packed heads of the widths in `head_dims.HEAD_DIMS` always do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.config import AttentionConfig
from rope_core.kernels.attention_kernel import attention_launch
from rope_core.kernels.launch_args import attention_args
from rope_core.kernels.launcher import launch_all
from rope_core.kernels.masking import ANY_KEY, key_limits
from rope_core.kernels.merge import merge_launch
from rope_core.kernels.runtime import device_properties
from rope_core.kernels.split_kv import STATISTICS
from rope_core.kernels.tile_configs import Tiles, default_tiles
from rope_core.kernels.tile_scheduler import schedule as make_schedule


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    config: AttentionConfig,
    *,
    lengths: tuple[Sequence[int], Sequence[int]],
    cu_seqlens: tuple[Tensor, Tensor] | None = None,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
    index: tuple[Tensor, Tensor] | None = None,
    block_table: Tensor | None = None,
    segments: tuple[Tensor, Sequence[int], Sequence[int]] | None = None,
    tiles: Tiles | None = None,
) -> None:
    """Attend within each of N sequences, and write every element of `out` and `lse`.

    The answer of a sequence has the same bits in any batch. Hidden keys and values, and memory
    beyond a sequence's keys, do not change an answer, even where they are NaN.

    Args:
        q: `[Tq, H, D]`, float32, float16 or bfloat16, any strides.
        k: `[Tk, Hkv, D]`; with a block table pages `[pages, Hkv, page_size, D]`.
        v: as k, Dv wide.
        out: `[Tq, H, Dv]`, of any of the dtypes, last stride 1.
        lse: `[Tq, H]` float32, contiguous: natural logarithm, sinks included; -inf where a query
            sees no key.
        config: which keys a query sees, and how scores are scaled and capped.
        lengths: queries and keys of each sequence.
        cu_seqlens: where the queries and the keys of each sequence start, int32 `[N + 1]` on the
            device; None to copy `lengths` there. If all are 0, nothing is written. With pages,
            only the numbers of keys are used.
        sinks: `[H]`: a score of each head that joins the softmax and has no value.
        mask: `[1 or N, 1 or H, queries, keys]`, boolean or added to the scores. With a first axis
            of 1 it has the axes of packed tokens, and each sequence reads its own block.
        index: int64 `[Tq]` and `[Tk]`, contiguous: position of each query and each key, in any
            order. None: the last query has the position of the last key.
        block_table: int32 `[N, blocks]`, see `paged_kv`.
        segments: of keys in pages that are a part of their row: int32 `[N, SEGMENT_FIELDS]` on the
            device, with the first stride of the block table; and the position of the first query
            and of the first key of each sequence. None: a sequence has all keys of its row.
        tiles: tiles of decode, append and prefill, `default_tiles` where None.

    Memory: up to 4 Hkv (Dv + 4) (keys / 8 + 2 rows) bytes of partial results for each sequence
    whose keys are split, where rows are its queries times H / Hkv; see `tile_scheduler`.

    Raises:
        ValueError: no tiles fit the GPU: see `tile_configs.why_no_tile`.
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    if not out.numel():
        return
    limits = key_limits(config)
    properties, width = device_properties(q.device), max(q.shape[-1], v.shape[-1])
    layout = "packed" if block_table is None else "paged"
    if mask is not None or index is not None:
        layout = "masked"
    tiles = tiles or default_tiles(properties, q.dtype, width, layout)
    if tiles is None:
        raise ValueError(f"no tiles for heads of width {width} on {properties}")
    decode, append, prefill = tiles
    schedule = make_schedule(
        lengths,
        q.shape[1] // k.shape[1],
        (decode.block_m, append.block_m, prefill.block_m),
        limits if index is None else ANY_KEY,  # an index is in any order
        q.device,
        None if segments is None else segments[1:],
    )
    args = attention_args(
        *(q, k, v, out, lse, config, limits),
        cu_seqlens=cu_seqlens or schedule.cu_seqlens(len(lengths[0])),
        sinks=sinks,
        mask=mask,
        index=index,
        block_table=block_table,
        segments=None if segments is None else segments[0],
    )
    launches = []
    if schedule.prefill.num_programs:
        launches.append(attention_launch(args, schedule, schedule.prefill, prefill))
    if schedule.merge.num_programs:
        width = v.shape[-1] + STATISTICS.value
        parts = q.new_empty(
            schedule.num_partial_rows, args.num_kv_heads, width, dtype=torch.float32
        )
        for programs, tile in ((schedule.decode, decode), (schedule.append, append)):
            if programs.num_programs:
                launches.append(attention_launch(args, schedule, programs, tile, parts))
        launches.append(merge_launch(args, schedule, parts))
    launch_all(launches)
