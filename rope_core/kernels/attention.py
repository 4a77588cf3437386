"""Attention over packed sequences, whose keys and values may lie in pages.

A kernel is compiled for each of these, and for nothing else: numbers of tokens, sequences and
heads, the ratio of heads, strides, scale, windows, chunks, sinks and positions are arguments.

- prefill: dtype of q, k and v; their two widths; no mask, booleans, or numbers that are added;
  positions in tensors or not; soft-cap or not; out in the dtype of q or in float32.
- decode of few rows, and of some: as prefill, without the dtype of out.
- merge: width of v; dtype of out.

Each once more for packed keys and for each size of pages, and for rows that do not start at
multiples of 16 bytes, which packed heads of the widths in `tile_configs.WIDTHS` always do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.kernels.decode import decode_launch
from rope_core.kernels.device_properties import card_of
from rope_core.kernels.launch_args import attention_args, bound
from rope_core.kernels.launcher import launch_all
from rope_core.kernels.masking import FAR
from rope_core.kernels.prefill import prefill_launch
from rope_core.kernels.split_kv import STATISTICS, merge_launch
from rope_core.kernels.tile_configs import TileTable, tile_of, usual_tiles
from rope_core.kernels.tile_scheduler import work_list


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
    tiles: TileTable | None = None,
) -> None:
    """Attend within each of N sequences, into `out` and `lse`, every element of which is written.

    A sequence's answer has the same bits in any batch. Hidden keys and values, and memory beyond a
    sequence's keys, never reach an answer, even where they are NaN.

    Args:
        q: `[Tq, H, D]`, float32, float16 or bfloat16, any strides.
        k: `[Tk, Hkv, D]`; with a block table pages `[pages, Hkv, page_size, D]`.
        v: as k, Dv wide.
        out: `[Tq, H, Dv]`, of any of the dtypes, last stride 1.
        lse: `[Tq, H]` float32, contiguous: natural logarithm, sinks included; -inf where a query
            sees no key.
        lengths_q: queries of each sequence.
        lengths_k: as lengths_q, of keys.
        scale: multiplier of the scores, of any sign.
        causal: hide later keys; the last query is at the place of the last key.
        cu_seqlens_q: where each sequence's queries start, int32 `[N + 1]` on the device; copied
            there where None. If all are 0, nothing is written. Given with cu_seqlens_k, or neither.
        cu_seqlens_k: as cu_seqlens_q, of keys; of pages, only how many keys there are counts.
        window: how many keys up to its own place a query sees.
        window_ahead: how many keys beyond it, given a window.
        chunk: length of chunks, counted from the first key, beyond which no query sees.
        softcap: bound of scores, before the mask.
        sinks: `[H]`: a score for each head that joins the softmax and brings no value.
        mask: `[1 or N, 1 or H, queries, keys]`: booleans, or what is added to the scores. One for
            all has the axes of packed tokens, of which each sequence reads its own block.
        q_index: int64 `[Tq]`, contiguous: where each query is in its whole sequence, in place of
            where it would be from the last key; given with k_index or not at all.
        k_index: int64 `[Tk]`, contiguous, as q_index, in any order.
        block_table: int32 `[N, blocks]`: key j of a sequence is in slot j % page_size of page
            block_table[sequence, j // page_size].
        tiles: table of tile sizes, TILES where None.

    Memory: up to 4 Hkv (Dv + 4) (keys / 8 + 2 rows) bytes of partial results for each sequence
    whose keys are split, where rows are its queries times H / Hkv; see `work_list` for which.

    Raises:
        ValueError: no tiles of the table fit the card: see `tile_configs.why_no_tile`.
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    assert (q_index is None) == (k_index is None), "given together"
    if not out.numel():
        return
    behind = FAR if window is None else bound(window) - 1
    ahead = bound(window_ahead) if window is not None else 0 if causal else FAR
    card, widest = card_of(q.device), max(q.shape[-1], v.shape[-1])
    layout = "packed" if block_table is None else "paged"
    if mask is not None or q_index is not None:
        layout = "masked"
    if tiles is None:
        few, some, prefill = usual_tiles(card, q.dtype, widest, layout)
    else:
        few, some, prefill = (
            tile_of(kernel, card, q.dtype, widest, layout, tiles)
            for kernel in ("few", "some", "prefill")
        )
    if few is None or some is None or prefill is None:
        raise ValueError(f"no tiles for heads of width {widest} on {card}")
    work = work_list(
        lengths_q,
        lengths_k,
        group=q.shape[1] // k.shape[1],
        block_m=(few.block_m, some.block_m, prefill.block_m),
        indexed=q_index is not None,
        behind=behind,
        chunk=bound(chunk),
        device=q.device,
    )
    num_seqs = len(lengths_q)
    if cu_seqlens_q is None or cu_seqlens_k is None:
        cu_seqlens_q, cu_seqlens_k = work.cu_seqlens(num_seqs)
    args = attention_args(
        *(q, k, v, out, lse),
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        num_seqs=num_seqs,
        scale=scale,
        softcap=softcap,
        behind=behind,
        ahead=ahead,
        chunk=bound(chunk),
        sinks=sinks,
        mask=mask,
        q_index=q_index,
        k_index=k_index,
        block_table=block_table,
    )
    width = args.value_dim + STATISTICS.value
    parts = q.new_empty((work.num_part_rows, args.num_kv_heads, width), dtype=torch.float32)
    launches = []
    if work.prefill.total:
        launches.append(prefill_launch(args, work, prefill))
    if work.few.total:
        launches.append(decode_launch(args, work, work.few, parts, few))
    if work.some.total:
        launches.append(decode_launch(args, work, work.some, parts, some))
    if work.merge.total:
        launches.append(merge_launch(args, work, parts))
    launch_all(launches)
