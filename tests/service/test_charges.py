"""No call allocates more temporary memory on the CPU than its charge."""

import gc
from bisect import bisect, bisect_left
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rope_core import Attend, AttentionConfig, Call, CosSin, Merge, RopeConfig, Rotate, Shift
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.inference.engine import Engine

MIB = 2**20

FIXED_BYTES = 1.5 * MIB
"""Fixed workspace of operators of torch, in bytes."""

ROPE = RopeConfig(head_dim=64, rotary_dim=64)
WHOLE = torch.arange(8192)
FRACTIONS = WHOLE + 0.5


def heads(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, 64, dtype=dtype)


def attends(dtype: torch.dtype) -> Iterator[tuple[str, Call, str | None]]:
    q = heads(1, 1024, 2, dtype=dtype)
    causal = AttentionConfig(causal=True)
    short = heads(1, 256, 2, dtype=dtype)
    one = heads(1, 1, 2, dtype=dtype)
    wide = torch.zeros(1, 1024, 2, 128, dtype=dtype)
    mask = torch.ones(1, 1024, dtype=torch.bool)
    index = torch.arange(1024)
    lengths = torch.tensor([0, 500, 1024])
    for backend in (None,) if dtype is torch.float16 else (None, "eager"):
        yield "attention", Attend(q, q, q, ROPE, causal), backend
        yield "attention without a rope", Attend(q, q, q, None, causal), backend
        yield "attention to all keys", Attend(q, q, q, ROPE, AttentionConfig(causal=False)), backend
        yield "grouped heads", Attend(q, q[:, :, :1], q[:, :, :1], ROPE, causal), backend
        yield "decoding", Attend(one, q, q, ROPE, causal), backend
        yield "a chunk of a prompt", Attend(short, q, q, ROPE, causal), backend
        yield "a window", Attend(q, q, q, ROPE, AttentionConfig(causal=True, window=128)), backend
        yield "soft-cap", Attend(q, q, q, ROPE, AttentionConfig(softcap=30.0)), backend
        yield "sinks", Attend(q, q, q, ROPE, causal, sinks=torch.zeros(2)), backend
        yield "a mask", Attend(q, q, q, ROPE, mask=mask), backend
        yield "an index", Attend(q, q, q, ROPE, causal, q_index=index, k_index=index), backend
        yield "wide values", Attend(q, q, wide, ROPE, causal), backend
        yield "log-sum-exp", Attend(q, q, q, ROPE, causal, return_lse=True), backend
        yield "float32", Attend(q, q, q, ROPE, causal, out_dtype=torch.float32), backend
        nan = q.clone()
        nan[0, 0, 0, 0] = torch.nan
        yield "NaN in q", Attend(nan, q, q, ROPE, causal), backend
        yield "NaN in v", Attend(q, q, nan, ROPE, causal), backend
        yield "NaN and a mask", Attend(nan, q, nan, ROPE, mask=mask), backend
        one_mask = torch.zeros(1, 2, 1024, 1024)
        yield "NaN and a mask of each head", Attend(nan, q, nan, ROPE, mask=one_mask), backend
        yield (
            "NaN in sequences",
            Attend(nan[0], q[0], nan[0], ROPE, causal, None, None, lengths, lengths),
            backend,
        )
        positions = FRACTIONS[:1024]
        yield "fractions", Attend(q, q, q, ROPE, causal, positions, positions), backend
        packed = Attend(q[0], q[0], q[0], ROPE, causal, None, None, lengths, lengths)
        yield "sequences", packed, backend


def calls() -> Iterator[tuple[str, Call, str | None]]:
    yarn = RopeConfig.of(64, rope_type="yarn", factor=4.0, original_max_position_embeddings=4096)
    part = RopeConfig(head_dim=64, rotary_dim=32, layout="interleaved")
    for dtype in (torch.float32, torch.float16):
        x = heads(1, 8192, 1, dtype=dtype)
        for name, rope in (("", ROPE), ("scaled", yarn), ("partial", part)):
            yield f"rotation {name}", Rotate(x, None, rope), None
            yield f"rotation of q and k {name}", Rotate(x, x, rope, WHOLE), None
            yield f"rotation of fractions {name}", Rotate(x, None, rope, FRACTIONS), None
            yield f"inverse {name}", Rotate(x, None, ROPE, WHOLE, inverse=True), "eager"
            yield f"shift {name}", Shift(x, torch.tensor(5), rope), None
        yield "shift by row", Shift(x, WHOLE[None], ROPE), None
        yield "not contiguous", Rotate(torch.zeros(1, 8192, 64, 2).mT, None, ROPE, WHOLE), None
        for num_parts in (2, 5):
            out = heads(num_parts, 1, 2048, 4, dtype=dtype)
            yield "merge", Merge(out, torch.zeros(num_parts, 1, 2048, 4)), None
        yield from attends(dtype)
    for positions in (WHOLE, FRACTIONS, FRACTIONS.double()):
        yield "tables", CosSin(positions, ROPE), None
        yield "scaled tables", CosSin(positions, yarn), None


def test_no_call_takes_more_than_its_charge():
    """The allocator of torch is recorded. Large answers are in the pool, and not recorded."""
    engine = Engine(Cpu(BufferPool(0)), max_call_s=1e9)
    jobs = [(name, engine.job(call, backend)) for name, call, backend in calls()]
    for _, job in jobs:
        if isinstance(job.call, Rotate):
            engine.run([job])  # tables for positions from 0 on are kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for index, (_, job) in enumerate(jobs):
            with record_function(f"job {index}"):
                engine.run([job])
                gc.collect(0)
    peaks = peaks_by_job(recorded)
    over = [
        f"{name} {job.call}"[:70] + f": {peaks[index] / MIB:.1f}, charged {charge / MIB:.1f} MiB"
        for index, (name, job) in enumerate(jobs)
        if peaks[index] > (charge := job.answer_bytes + job.scratch_bytes) + FIXED_BYTES
    ]
    assert not over, "\n".join(over)


def peaks_by_job(recorded: profile) -> list[int]:
    """Return the most bytes that torch allocated at a time in each job."""
    events = recorded.profiler.kineto_results.events()
    jobs = sorted((e.start_ns(), e.end_ns()) for e in events if e.name().startswith("job "))
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peaks = []
    for start, end in jobs:
        sizes = [size for _, size in memory[bisect_left(memory, (start,)) : bisect(memory, (end,))]]
        peaks.append(max(accumulate(sizes), default=0))
    return peaks
