"""Attention of planned calls on the CPU: the usual form, causal over the tokens of each row."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

import rope_core
from rope_core import Attend, compiled
from rope_core.attention import MAX_GROWTH
from rope_core.backends import sdpa, sdpa_cpu
from rope_core.inference import inference
from rope_core.table_rotation import TableRotation, table_rotation
from service.batching.run import Run
from service.planned.plan import PlannedJob, PlannedResult, TensorSpan, answer_parts
from service.slab_pool import ALIGNMENT
from service.wire.elements import view_as_bytes, view_as_tensor

Rotate = Callable[[int, int, int, int], float]
"""As `TokenRotation.run`."""


class _Rotations(NamedTuple):
    """How to rotate q and k of a call, and the results, which the next call overwrites."""

    q: Tensor
    """`[B, H, S, D]`; tokens are contiguous."""
    q_address: int
    rotate_q: Rotate
    k: Tensor
    """`[B, Hkv, S, D]`; tokens are contiguous."""
    k_address: int
    rotate_k: Rotate


class AttentionRunner:
    """Runs the calls of a plan by the steps of the library, without those of other forms.

    Args:
        call: the first call of the plan.
        table: the angles.
        spans: of q `[B, S, H, D]` or `[T, H, D]`, k and v `[..., Hkv, D]`, and int64 positions, one
            for each token.
    """

    batch_key: ClassVar[str] = "planned attention"

    def __init__(self, call: Attend, table: TableRotation, spans: dict[str, TensorSpan]) -> None:
        self._table = table
        self._q, self._k, self._v = spans["q"], spans["k"], spans["v"]
        self._positions = spans["positions"]
        self._dtype = call.q.dtype
        self._num_tokens = call.num_tokens
        self._num_heads, head_dim = call.q.shape[-2:]
        self._num_kv_heads = call.k.shape[-2]
        self._return_lse = call.return_lse
        self._scale = call.attention.scale or float(head_dim**-0.5)
        growth = max(1.0, MAX_GROWTH * abs(table.rope.attention_scaling))
        self._score_factor = growth**2 * head_dim * max(1.0, self._scale)
        self._v_shape = (1, *self._v.shape)[-4:]
        k_start = -(-self._q.num_bytes // ALIGNMENT) * ALIGNMENT
        self._layouts = [
            _heads_first(span.shape, start // self._dtype.itemsize)
            for span, start in ((self._q, 0), (self._k, k_start))
        ]
        self.scratch_bytes = k_start + -(-self._k.num_bytes // ALIGNMENT) * ALIGNMENT
        """Memory for rotated queries and keys."""

    @inference
    def __call__(self, jobs: Sequence[PlannedJob]) -> Run[PlannedResult | Exception]:
        """Attend in all jobs, one after the other, by memory that stays in the caches."""
        started = time.perf_counter()
        scratch = torch.empty(max(job.runner.scratch_bytes for job in jobs), dtype=torch.uint8)
        results: list[PlannedResult | Exception] = []
        for runner, same in groupby(jobs, attrgetter("runner")):
            results += map(partial(runner.attend, runner.rotations(scratch)), same)
        return Run(results, 0.0, time.perf_counter() - started)

    def rotations(self, scratch: Tensor) -> "_Rotations":
        """Return how to rotate q and k into memory, uint8 `[n]`, n >= `scratch_bytes`."""
        table, dtype = self._table, self._dtype
        numbers = scratch.view(dtype)
        q, k = (numbers.as_strided(*layout) for layout in self._layouts)
        rotate_q, rotate_k = (
            table.for_heads(n, dtype) for n in (self._num_heads, self._num_kv_heads)
        )
        return _Rotations(q, q.data_ptr(), rotate_q.run, k, k.data_ptr(), rotate_k.run)

    def attend(self, rotations: "_Rotations", job: PlannedJob) -> PlannedResult | Exception:
        """Attend in one job. The library does so where numbers need more care."""
        q, q_address, rotate_q, k, k_address, rotate_k = rotations
        num_tokens, address = self._num_tokens, job.slab.address
        positions = address + self._positions.offset
        max_q = rotate_q(address + self._q.offset, q_address, positions, num_tokens)
        if max_q < 0:  # a position is not in the table
            return _attend_alone(job)
        max_k = rotate_k(address + self._k.offset, k_address, positions, num_tokens)
        v = view_as_tensor(job.slab.memory, self._dtype, self._v_shape, self._v.offset)
        max_v = compiled.max_abs(address + self._v.offset, v.numel(), self._dtype)
        # false for NaN
        if not (max_q * max_k * self._score_factor < sdpa.MAX_SCORE and max_v < torch.inf):
            return _attend_alone(job)
        v = sdpa_cpu.cache_aligned(v).transpose(1, 2)
        out, lse = sdpa_cpu.flash(q, k, v, 0.0, True, scale=self._scale)
        parts = [view_as_bytes(out.transpose(1, 2).contiguous())]
        if self._return_lse:
            parts.append(view_as_bytes(lse.transpose(1, 2).contiguous()))
        return PlannedResult(parts, sdpa.name)


def attention_runner(call: Attend, spans: Sequence[TensorSpan]) -> AttentionRunner | None:
    """Return the runner of calls like `call`; None where only the library can run them."""
    by_name = {span.name: span for span in spans}
    rope, config, q = call.rope, call.attention, call.q
    table = None if rope is None else table_rotation(rope)
    if table is None or rope is None or compiled.extension() is None:
        return None
    num_rows, num_tokens = len(q) if q.ndim == 4 else 1, q.shape[-3]
    is_usual = (
        by_name.keys() == {"q", "k", "v", "positions"}
        and all(span.num_bytes for span in spans)
        and by_name["positions"].dtype is torch.int64
        and torch.Size(by_name["positions"].shape).numel() == num_rows * num_tokens
        and call.q_index is None  # it may come from parameters
        and not rope.whole_positions
        and rope.values == "kept"
        and call.v.shape[-1] == q.shape[-1]
        and call.out_dtype in (None, q.dtype)
        and num_tokens > 1  # the library computes a single query without the causal mask
        and (num_rows == 1 or q.dtype is torch.float32)  # rows have the bits that they have alone
        and config.causal
        and (config.window, config.chunk, config.softcap) == (None, None, None)
        and (config.scale is None or config.scale > 0)
    )
    return AttentionRunner(call, table, by_name) if is_usual else None


def _heads_first(
    shape: tuple[int, ...], offset: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return sizes, strides and offset of contiguous `[B, S, H, D]` seen as `[B, H, S, D]`."""
    num_rows, num_tokens, num_heads, head_dim = (1, *shape)[-4:]
    width = num_heads * head_dim
    sizes = num_rows, num_heads, num_tokens, head_dim
    return sizes, (num_tokens * width, head_dim, width, 1), offset


def _attend_alone(job: PlannedJob) -> PlannedResult | Exception:
    """Attend in one job by the library."""
    try:
        call = job.call
        assert isinstance(call, Attend), "the runner is for attention"
        result = rope_core.attend(call, job.backend)
    except Exception as failure:
        return failure
    return PlannedResult(answer_parts(result), result.backend)
