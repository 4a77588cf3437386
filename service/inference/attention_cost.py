"""Estimate the number of operations of attention."""

import math

from rope_core import Attend

OVERHEAD_FLOPS = 64
"""Operations of each score in addition to the two products: exponential and mask."""

EAGER_FLOPS = 800
"""Operations of each score where eager operators compute attention on a CPU. Measured: each of them
reads and writes all scores."""

BLOCK_ROWS = 512
"""Queries in a block if there is a window (`MASK_ROWS` of the library): its scores cover the
windows of all its queries."""


def attention_flops(call: Attend, on_host: bool, backend: str | None) -> float:
    """Return the approximate number of operations of the scores and weighted sums.

    Scores that `causal` hides are not counted, as few backends compute many of them. On the host
    this holds for scores that a window or a chunk hides as well.

    Args:
        call: the call.
        on_host: whether the call is computed in memory of the host.
        backend: name of the backend that must run the call; None: the library chooses.
    """
    causal, is_eager = call.attention.causal, False
    max_seen = math.inf
    if on_host:
        is_eager = backend == "eager" or call.attention.softcap is not None
        max_seen = _max_seen(call, is_eager)
    num_rows = len(call.q) if call.q.ndim == 4 else 1
    lengths = call.lengths or ((call.q.shape[-3],) * num_rows, (call.k.shape[-3],) * num_rows)
    num_scores = sum(
        min(num_queries * max_seen, _num_scores(num_queries, num_keys, causal and not is_eager))
        for num_queries, num_keys in zip(*lengths, strict=True)
    )
    flops = 2.0 * (call.q.shape[-1] + call.v.shape[-1]) + OVERHEAD_FLOPS + EAGER_FLOPS * is_eager
    return num_scores * call.q.shape[-2] * flops


def _max_seen(call: Attend, is_eager: bool) -> float:
    """Return the most keys for which the score of a query is computed."""
    config = call.attention
    if call.mask is None and call.q_index is None:
        if config.chunk is not None:
            return config.chunk
        if config.window is not None and not is_eager:
            return config.window + config.window_ahead + BLOCK_ROWS
    return math.inf


def _num_scores(num_queries: int, num_keys: int, causal: bool) -> float:
    """Return the number of pairs of a query and a key that the query sees, in one sequence."""
    if not causal:
        return num_queries * num_keys
    num_queries = min(num_queries, num_keys)  # queries before the first key see none
    return num_queries * (num_keys - num_queries / 2)
