"""The outputs of attention: sinks join the softmax, then out and lse are written."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rope_core.kernels.online_softmax import LN2, LOG2E, exp_score

OUTPUT_NUMBERS = "has_sinks", "stride_out_token", "stride_out_head"
"""Fields of `AttentionOutput` that a kernel takes as numbers."""


class AttentionOutput(NamedTuple):
    """Where out and lse are written. Strides of out are in units of STRIDE_UNIT elements."""

    out_ptr: Any  # [Tq, H, VALUE_DIM]
    lse_ptr: Any  # [Tq, H] float32, contiguous
    sinks_ptr: Any  # [H] float32, or None
    has_sinks: Any  # sinks are read only where this is not 0
    num_heads: Any
    stride_out_token: Any
    stride_out_head: Any
    STRIDE_UNIT: Any
    VALUE_DIM: Any


@triton.jit
def store_output(
    acc,  # [M, D] float32; rows may have two axes [M, G], which add a last axis in acc
    m_i,  # [M] float32
    l_i,  # [M] float32
    natural,  # whether scores are natural, not multiplied by log2(e)
    token,  # [M], row of out
    head,  # [M]
    d,  # elements of a head, broadcast to the shape of acc
    exists,  # [M]
    stores_lse,  # [M], the rows that write lse
    output,
):
    """Add the sinks to the softmax, and write out and lse."""
    # [M]
    sees_no_key = l_i == 0.0
    m_new = m_i
    if output.sinks_ptr is not None:
        # without sinks, -inf: it changes no bit
        is_read = exists & (output.has_sinks != 0)
        sink = tl.load(output.sinks_ptr + head, mask=is_read, other=-float("inf"))
        score = sink * tl.where(natural, 1.0, LOG2E)
        m_new = tl.maximum(m_i, score)
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)
        alpha = exp_score(m_i - shift, natural)
        l_i = l_i * alpha + exp_score(score - shift, natural)
        acc = acc * tl.expand_dims(alpha, -1)
    # [M, D]
    out = acc / tl.expand_dims(tl.where(l_i == 0.0, 1.0, l_i), -1)
    # [M]
    log2_l = tl.log2(l_i)
    lse = tl.where(natural, m_new + log2_l * LN2, (m_new + log2_l) * LN2)
    if output.sinks_ptr is not None:
        lse = tl.where(sees_no_key, sink, lse)  # exactly, not by way of log2
    else:
        lse = tl.where(sees_no_key, -float("inf"), lse)

    out_row = (token * output.stride_out_token + head * output.stride_out_head) * output.STRIDE_UNIT
    ptr = output.out_ptr + tl.expand_dims(out_row, -1) + d
    is_stored = tl.expand_dims(exists, -1) & (d < output.VALUE_DIM)
    tl.store(ptr, out.to(output.out_ptr.dtype.element_ty), mask=is_stored)
    tl.store(output.lse_ptr + token * output.num_heads + head, lse, mask=stores_lse)
