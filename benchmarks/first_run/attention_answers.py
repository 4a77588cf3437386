"""Calls of attention for `answers`: every option, width and place of keys, few and many rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from benchmarks.gpu_cases import kernels, truth
from benchmarks.gpu_cases.case import Run, Side
from benchmarks.gpu_cases.decode import in_pages
from benchmarks.gpu_cases.sizes import Sizes, randn, short
from rope_core import AttentionConfig

Lengths = tuple[Sequence[int], Sequence[int]]
Options = dict[str, object]

KINDS: dict[str, Lengths] = {
    "decode": ([1, 1, 3], [600, 5, 70]),
    "prefill": ([100, 40], [140, 40]),
}
"""Queries and keys of sequences; a decode's keys are of more than one part."""

DRY_KINDS: dict[str, Lengths] = {"decode": ([1, 3], [520, 30]), "prefill": ([40], [50])}

EMPTY: Lengths = ([0, 3, 0, 40, 2], [5, 0, 0, 50, 7])
WINDOW = 16


def groups(sizes: Sizes) -> Iterator[tuple[str, Mapping[str, Callable[[], Side]]]]:
    """Yield calls by name of the group and what is special about each; nothing is made yet."""
    kinds = (DRY_KINDS if sizes.dry else KINDS).items()
    for (kind, lengths), width, way in product(kinds, sizes.widths, ("packed", "pages")):
        make = partial(_side, sizes, lengths, width, paged=way == "pages")
        yield f"{kind} bfloat16, D={width}, {way}", _special(sizes, lengths, make)
    for (kind, lengths), dtype in product(kinds, (torch.float32, torch.float16)):
        make = partial(_side, sizes, lengths, sizes.head_dim, dtype=dtype)
        yield f"{kind} {short(dtype)}, D={sizes.head_dim}", {"causal": make}
    yield "empty sequences", {"causal": partial(_side, sizes, EMPTY, sizes.head_dim)}


def batches(sizes: Sizes, count: int) -> Iterator[tuple[str, Run, Sequence[Run]]]:
    """Yield calls of `count` sequences, and the same sequences in calls of their own."""
    kinds = {
        "decode": ([1] * count, [40 + 90 * i for i in range(count)]),
        "prefill": ([40 + 7 * i for i in range(count)], [60 + 9 * i for i in range(count)]),
    }
    for kind, (lengths_q, lengths_k) in kinds.items():
        q, k, v = _qkv(sizes, (lengths_q, lengths_k), sizes.head_dim)
        spans = zip(truth.spans(lengths_q), truth.spans(lengths_k), strict=True)
        alone = [
            kernels.attend(q[i], k[j], v[j], [i.stop - i.start], [j.stop - j.start])
            for i, j in spans
        ]
        yield kind, kernels.attend(q, k, v, lengths_q, lengths_k), alone


def _special(
    sizes: Sizes, lengths: Lengths, make: Callable[..., Side]
) -> Mapping[str, Callable[[], Side]]:
    """Return calls that differ in one option each."""
    lengths_q, lengths_k = lengths
    num_q, num_k, device = sum(lengths_q), sum(lengths_k), sizes.device
    seen = torch.rand(1, 1, num_q, num_k, device=device) < 0.8
    seen[..., ::7] = False
    bias = randn(sizes, 1, 1, num_q, num_k, dtype=torch.float32)
    q_index = torch.cat([torch.arange(n, device=device) + 20 for n in lengths_q])
    k_index = torch.cat([torch.randperm(n, device=device) for n in lengths_k])
    column_hidden = torch.arange(num_k, device=device) % 7 == 0
    ends = [(span.start, n) for span, n in zip(truth.spans(lengths_k), lengths_k, strict=True)]
    behind = torch.zeros(num_k, dtype=torch.bool, device=device)
    for (start, keys), queries in zip(ends, lengths_q, strict=True):
        behind[start : start + max(0, keys - queries - WINDOW)] = True
    return {
        "causal": make,
        "not causal": partial(make, config=AttentionConfig(causal=False)),
        "a window": partial(make, config=AttentionConfig(window=WINDOW)),
        "a softcap": partial(make, config=AttentionConfig(softcap=2.0)),
        "sinks": partial(make, sinks=randn(sizes, sizes.heads[0], dtype=torch.float32)),
        "a bool mask": partial(make, mask=seen, config=AttentionConfig(causal=False)),
        "an added mask": partial(make, mask=bias),
        "an index": partial(make, index=(q_index, k_index)),
        "out in float32": partial(make, out_dtype=torch.float32),
        "NaN beyond a window": partial(make, spoiled=behind, config=AttentionConfig(window=WINDOW)),
        "NaN behind a mask": partial(
            make, spoiled=column_hidden, mask=seen, config=AttentionConfig(causal=False)
        ),
    }


def _side(
    sizes: Sizes,
    lengths: Lengths,
    width: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    paged: bool = False,
    spoiled: Tensor | None = None,
    **options: object,
) -> Side:
    q, k, v = _qkv(sizes, lengths, width, dtype)
    if spoiled is not None:
        k[spoiled], v[spoiled] = torch.nan, torch.nan
    expected = truth.attention(q, k, v, *lengths, **options)
    keys, table = (k, v), None
    if paged:
        slab, table = in_pages(k, v, lengths[1], sizes.page_size)
        keys = slab[:, 0], slab[:, 1]
    run = kernels.attend(q, *keys, *lengths, block_table=table, **options)
    return Side("own", run, expected)


def _qkv(
    sizes: Sizes, lengths: Lengths, width: int, dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    heads, kv_heads = sizes.heads
    num_q, num_k = map(sum, lengths)
    shapes = [(num_q, heads, width), *[(num_k, kv_heads, width)] * 2]
    return [randn(sizes, *shape, dtype=dtype) for shape in shapes]
