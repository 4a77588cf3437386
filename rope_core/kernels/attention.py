"""Attention over packed sequences, whose keys and values may be in pages.

A kernel is compiled for each of these, and for nothing else: numbers of tokens, sequences and
heads, the group size, strides, scale, windows, chunks, sinks and positions are arguments.

- prefill: dtype of q, k and v; their two widths; no mask, a boolean one, or an additive one;
  positions in tensors or not; soft-cap or not; out in the dtype of q or in float32.
- decode, with the tile "decode" and with "append": as prefill, without the dtype of out.
- merge: width of v; dtype of out.

Each once more for packed keys and for each page size, and for rows that do not start at multiples
of 16 bytes, which packed heads of the widths in `head_dims.HEAD_DIMS` always do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.kernels.decode import decode_launch
from rope_core.kernels.device_properties import device_properties
from rope_core.kernels.launch_args import attention_args
from rope_core.kernels.launcher import launch_all
from rope_core.kernels.masking import key_limits
from rope_core.kernels.merge import merge_launch
from rope_core.kernels.prefill import prefill_launch
from rope_core.kernels.split_kv import STATISTICS
from rope_core.kernels.tile_configs import Tiles, default_tiles
from rope_core.kernels.tile_scheduler import schedule as make_schedule


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    lengths_q: Sequence[int],
    lengths_k: Sequence[int],
    scale: float,
    causal: bool,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    window: int | None = None,
    window_ahead: int = 0,
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
    q_index: Tensor | None = None,
    k_index: Tensor | None = None,
    block_table: Tensor | None = None,
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
        lengths_q: queries of each sequence.
        lengths_k: keys of each sequence.
        scale: multiplier of the scores, of any sign.
        causal: hide later keys; the last query has the position of the last key.
        cu_seqlens_q: where each sequence's queries start, int32 `[N + 1]` on the device; None to
            copy `lengths_q` there. If all are 0, nothing is written. Requires cu_seqlens_k.
        cu_seqlens_k: as cu_seqlens_q, of keys; with pages, only the numbers of keys are used.
        window: how many keys up to its own position a query sees.
        window_ahead: how many keys after its position, with a window.
        chunk: length of chunks, counted from the first key; a query sees keys of its chunk only.
        softcap: bound of scores, applied before the mask.
        sinks: `[H]`: a score of each head that joins the softmax and has no value.
        mask: `[1 or N, 1 or H, queries, keys]`, boolean or added to the scores. With a first axis
            of 1 it has the axes of packed tokens, and each sequence reads its own block.
        q_index: int64 `[Tq]`, contiguous: position of each query in its whole sequence, in place
            of its distance from the last key. Requires k_index.
        k_index: int64 `[Tk]`, contiguous, as q_index, in any order.
        block_table: int32 `[N, blocks]`, see `paged_kv`.
        tiles: tiles of decode, append and prefill, `default_tiles` where None.

    Memory: up to 4 Hkv (Dv + 4) (keys / 8 + 2 rows) bytes of partial results for each sequence
    whose keys are split, where rows are its queries times H / Hkv; see `tile_scheduler`.

    Raises:
        ValueError: no tiles fit the GPU: see `tile_configs.why_no_tile`.
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    assert (q_index is None) == (k_index is None), "both or neither"
    if not out.numel():
        return
    limits = key_limits(causal, window, window_ahead, chunk)
    properties, width = device_properties(q.device), max(q.shape[-1], v.shape[-1])
    layout = "packed" if block_table is None else "paged"
    if mask is not None or q_index is not None:
        layout = "masked"
    tiles = tiles or default_tiles(properties, q.dtype, width, layout)
    if tiles is None:
        raise ValueError(f"no tiles for heads of width {width} on {properties}")
    decode, append, prefill = tiles
    schedule = make_schedule(
        lengths_q,
        lengths_k,
        group_size=q.shape[1] // k.shape[1],
        block_m=(decode.block_m, append.block_m, prefill.block_m),
        indexed=q_index is not None,
        limits=limits,
        device=q.device,
    )
    num_seqs = len(lengths_q)
    if cu_seqlens_q is None or cu_seqlens_k is None:
        cu_seqlens_q, cu_seqlens_k = schedule.cu_seqlens(num_seqs)
    args = attention_args(
        *(q, k, v, out, lse),
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        num_seqs=num_seqs,
        scale=scale,
        softcap=softcap,
        limits=limits,
        sinks=sinks,
        mask=mask,
        q_index=q_index,
        k_index=k_index,
        block_table=block_table,
    )
    partial_shape = schedule.num_partial_rows, args.num_kv_heads, v.shape[-1] + STATISTICS.value
    parts = q.new_empty(partial_shape, dtype=torch.float32)
    launches = []
    if schedule.prefill.num_programs:
        launches.append(prefill_launch(args, schedule, prefill))
    if schedule.decode.num_programs:
        launches.append(decode_launch(args, schedule, schedule.decode, parts, decode))
    if schedule.append.num_programs:
        launches.append(decode_launch(args, schedule, schedule.append, parts, append))
    if schedule.merge.num_programs:
        launches.append(merge_launch(args, schedule, parts))
    launch_all(launches)
