"""Calls of attention for the step `answers`: every option, head_dim and key layout."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Function, Provider, ProviderFactory
from benchmarks.gpu_cases.decode import to_pages
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, randn
from rope_core import AttentionConfig

Lengths = tuple[Sequence[int], Sequence[int]]
"""Queries and keys of each sequence."""

KINDS: dict[str, Lengths] = {
    "decode": ([1, 1, 3], [600, 5, 70]),  # keys of more than one split
    "prefill": ([100, 40], [140, 40]),
}
DRY_RUN_KINDS: dict[str, Lengths] = {"decode": ([1, 3], [520, 30]), "prefill": ([40], [50])}
EMPTY: Lengths = ([0, 3, 0, 40, 2], [5, 0, 0, 50, 7])
WINDOW = 16


def groups(sizes: Sizes) -> Iterator[tuple[str, Mapping[str, ProviderFactory]]]:
    """Yield groups by name; each is calls by the name of their option."""
    kinds = (DRY_RUN_KINDS if sizes.dry_run else KINDS).items()
    for (kind, lengths), head_dim, kv_layout in product(
        kinds, sizes.head_dims, ("packed", "pages")
    ):
        attend = partial(_attend, sizes, lengths, head_dim, paged=kv_layout == "pages")
        yield f"{kind} bfloat16, D={head_dim}, {kv_layout}", _options(sizes, lengths, attend)
    for (kind, lengths), dtype in product(kinds, (torch.float32, torch.float16)):
        attend = partial(_attend, sizes, lengths, sizes.head_dim, dtype=dtype)
        yield f"{kind} {dtype_name(dtype)}, D={sizes.head_dim}", {"causal": attend}
    yield "empty sequences", {"causal": partial(_attend, sizes, EMPTY, sizes.head_dim)}


def batches(sizes: Sizes, count: int) -> Iterator[tuple[str, Function, Sequence[Function]]]:
    """Yield a name, a call with `count` sequences, and a separate call for each sequence."""
    kinds = {
        "decode": ([1] * count, [40 + 90 * i for i in range(count)]),
        "prefill": ([40 + 7 * i for i in range(count)], [60 + 9 * i for i in range(count)]),
    }
    for kind, (lengths_q, lengths_k) in kinds.items():
        q, k, v = _qkv(sizes, (lengths_q, lengths_k), sizes.head_dim)
        slices = zip(reference.seq_slices(lengths_q), reference.seq_slices(lengths_k), strict=True)
        singles = [
            kernels.attend(q[i], k[j], v[j], [i.stop - i.start], [j.stop - j.start])
            for i, j in slices
        ]
        yield kind, kernels.attend(q, k, v, lengths_q, lengths_k), singles


def _options(
    sizes: Sizes, lengths: Lengths, attend: Callable[..., Provider]
) -> Mapping[str, ProviderFactory]:
    """Return calls that differ in one option each."""
    lengths_q, lengths_k = lengths
    num_q, num_k, device = sum(lengths_q), sum(lengths_k), sizes.device
    mask = torch.rand(1, 1, num_q, num_k, device=device) < 0.8
    mask[..., ::7] = False
    bias = randn(sizes, 1, 1, num_q, num_k, dtype=torch.float32)
    q_index = torch.cat([torch.arange(n, device=device) + 20 for n in lengths_q])
    k_index = torch.cat([torch.randperm(n, device=device) for n in lengths_k])
    masked_keys = torch.arange(num_k, device=device) % 7 == 0
    outside_window = torch.zeros(num_k, dtype=torch.bool, device=device)
    for keys, queries in zip(reference.seq_slices(lengths_k), lengths_q, strict=True):
        num_hidden = max(0, keys.stop - keys.start - queries - WINDOW)
        outside_window[keys.start : keys.start + num_hidden] = True
    return {
        "causal": attend,
        "not causal": partial(attend, config=AttentionConfig(causal=False)),
        "a window": partial(attend, config=AttentionConfig(window=WINDOW)),
        "a softcap": partial(attend, config=AttentionConfig(softcap=2.0)),
        "sinks": partial(attend, sinks=randn(sizes, sizes.heads[0], dtype=torch.float32)),
        "a bool mask": partial(attend, mask=mask, config=AttentionConfig(causal=False)),
        "an additive mask": partial(attend, mask=bias),
        "an index": partial(attend, index=(q_index, k_index)),
        "out in float32": partial(attend, out_dtype=torch.float32),
        "NaN outside the window": partial(
            attend, nan_keys=outside_window, config=AttentionConfig(window=WINDOW)
        ),
        "NaN under the mask": partial(
            attend, nan_keys=masked_keys, mask=mask, config=AttentionConfig(causal=False)
        ),
    }


def _attend(
    sizes: Sizes,
    lengths: Lengths,
    head_dim: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    paged: bool = False,
    nan_keys: Tensor | None = None,
    **options: object,
) -> Provider:
    q, k, v = _qkv(sizes, lengths, head_dim, dtype)
    if nan_keys is not None:
        k[nan_keys], v[nan_keys] = torch.nan, torch.nan
    expected = reference.attention(q, k, v, *lengths, **options)
    keys_values, block_table = (k, v), None
    if paged:
        pages, block_table = to_pages(k, v, lengths[1], sizes.page_size)
        keys_values = pages[:, 0], pages[:, 1]
    run = kernels.attend(q, *keys_values, *lengths, block_table=block_table, **options)
    return Provider("ours", run, expected)


def _qkv(
    sizes: Sizes, lengths: Lengths, head_dim: int, dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    heads, kv_heads = sizes.heads
    num_q, num_k = map(sum, lengths)
    shapes = [(num_q, heads, head_dim), *[(num_k, kv_heads, head_dim)] * 2]
    return [randn(sizes, *shape, dtype=dtype) for shape in shapes]
