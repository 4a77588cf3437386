"""Some queries of one sequence over many cached keys: more rows than a decode, fewer than a prompt.

The floor is the slower of a read of K and V and a product of as many operations.
"""

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu_cases import floors, kernels, reference
from benchmarks.gpu_cases.case import Case, Make, Side
from benchmarks.gpu_cases.sizes import Sizes, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    for queries in sizes.appended:
        yield f"append {queries} to {sizes.long} keys", partial(_case, sizes, queries)


def _case(sizes: Sizes, queries: int) -> Case:
    heads, kv_heads = sizes.heads
    q = randn(sizes, queries, heads, sizes.head_dim)
    k, v = (randn(sizes, sizes.long, kv_heads, sizes.head_dim) for _ in range(2))
    lengths = [queries], [sizes.long]
    own = Side("own", kernels.attend(q, k, v, *lengths), reference.attention(q, k, v, *lengths))
    moved = float(k.nbytes + v.nbytes)
    seen = queries * (sizes.long - (queries - 1) / 2)
    flops = 4.0 * sizes.head_dim * heads * seen
    over = [floors.over_read_floor(sizes, flops, moved)]
    return Case(own, over, moved)
