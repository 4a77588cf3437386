"""Attention over parts of the keys, merged into attention over all of them."""

import torch

from rope_core.calls import Attended, Merge
from rope_core.inference import inference


@inference
def merge(call: Merge) -> Attended:
    """Merge N partial answers, in float32.

    Associative, and exact but for rounding: softmax weights over all keys are each part's own,
    times exp(lse of the part - lse of all). A part that saw no key (lse -inf) counts for nothing.
    """
    lse = call.lse.logsumexp(0)
    share = (call.lse - lse.masked_fill(lse == -torch.inf, 0)).exp()[..., None]
    parts = call.out.float().masked_fill(share == 0, 0)  # 0 * NaN would be NaN
    return Attended((parts * share).sum(0).to(call.out.dtype), lse)
