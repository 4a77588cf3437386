"""Attention over packed sequences, whose keys and values may lie in pages."""

from collections.abc import Sequence

from torch import Tensor

from rope_core.kernels import decode, prefill
from rope_core.kernels.given import Given

FEW_ROWS = (16, 64)
"""So many rows, queries times group, share one tile; keys are split between tiles of few rows."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    lengths_q: Sequence[int],
    lengths_k: Sequence[int],
    scale: float,
    causal: bool,
    window: int | None = None,
    window_ahead: int = 0,
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
    q_index: Tensor | None = None,
    k_index: Tensor | None = None,
    block_table: Tensor | None = None,
) -> None:
    """Attend within each of N sequences, into `out` and `lse`, every element of which is written.

    A sequence's answer is the same to the last bit whatever it comes with. What a hidden key or
    value holds, or what lies beyond a sequence's keys, reaches no answer, be it NaN.

    Args:
        q: `[Tq, H, D]`, float32, float16 or bfloat16, any strides.
        k: `[Tk, Hkv, D]`; with a block table pages `[pages, Hkv, page_size, D]`.
        v: as k, Dv wide.
        out: `[Tq, H, Dv]`, of any of the dtypes, last stride 1.
        lse: `[Tq, H]` float32, contiguous: natural logarithm, sinks included; -inf for none seen.
        cu_seqlens_q: where each sequence's queries start: int32 `[N + 1]` on the device.
        cu_seqlens_k: as cu_seqlens_q, of keys; of pages, only how many keys there are counts.
        lengths_q: queries of each sequence, as in cu_seqlens_q; never read from the device.
        lengths_k: as lengths_q, of keys.
        scale: multiplier of the scores, of any sign.
        causal: hide later keys; the last query is at the place of the last key.
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
    """
    assert (q_index is None) == (k_index is None), "given together"
    if not out.numel():
        return
    behind = None if window is None else window - 1
    ahead = window_ahead if window is not None else 0 if causal else None
    if mask is not None:
        mask = mask.expand(-1, q.shape[1], -1, -1)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    given = Given(
        q=q,
        k=k,
        v=v,
        out=out,
        lse=lse,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        block_table=block_table,
        sinks=sinks,
        mask=mask,
        q_index=q_index,
        k_index=k_index,
        scale=scale,
        softcap=softcap,
        behind=behind,
        ahead=ahead,
        chunk=chunk,
    )
    # by its own rows alone is a sequence's kernel chosen
    more_than, lengths = 0, [*zip(lengths_q, lengths_k, strict=True)]
    for tile_rows in FEW_ROWS:
        up_to = max(tile_rows, given.group) if tile_rows == FEW_ROWS[-1] else tile_rows
        few = [(i, j) for i, j in lengths if more_than < i * given.group <= up_to]
        if few:
            decode.launch(given, more_than, tile_rows, few, sum(lengths_k))
        more_than = up_to
    if any(i * given.group > more_than for i, _ in lengths):
        prefill.launch(given, more_than)
