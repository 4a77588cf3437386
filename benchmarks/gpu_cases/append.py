"""A few new queries of one sequence over many cached keys, as in chunked prefill.

The floor is the slower of reading K and V and a matrix product with the same number of operations.
"""

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu_cases import floors, kernels, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Provider
from benchmarks.gpu_cases.sizes import Sizes, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    for num_queries in sizes.append_queries:
        name = f"append {num_queries} to {sizes.long_keys} keys"
        yield name, partial(_case, sizes, num_queries)


def _case(sizes: Sizes, num_queries: int) -> Case:
    heads, kv_heads = sizes.heads
    num_keys = sizes.long_keys
    q = randn(sizes, num_queries, heads, sizes.head_dim)
    k, v = (randn(sizes, num_keys, kv_heads, sizes.head_dim) for _ in range(2))
    lengths = [num_queries], [num_keys]
    expected = reference.attention(q, k, v, *lengths)
    ours = Provider("ours", kernels.attend(q, k, v, *lengths), expected)
    num_bytes = float(k.nbytes + v.nbytes)
    mean_visible_keys = num_keys - (num_queries - 1) / 2
    flops = 4.0 * sizes.head_dim * heads * num_queries * mean_visible_keys
    return Case(ours, [floors.read_roofline(sizes, flops, num_bytes)], num_bytes)
