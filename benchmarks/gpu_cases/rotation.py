"""Rotation of queries and keys over a copy of as many bytes, and interleaved over half-split.

Bytes are those of q and k, read and written; what is read of tables and positions is not counted.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.gpu_cases import floors, kernels, library_rotation, reference
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes, poison, randn, short

FAR = 1_000_000
"""Positions, where no table ends."""


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    for dtype in (torch.bfloat16, torch.float32):
        for layout in ("half", "interleaved"):
            for way in ("table", "positions"):
                name = f"rotate {short(dtype)}, {layout}, by {way}"
                yield name, partial(_case, sizes, dtype, layout, way == "table")
    half = partial(_case, sizes, torch.bfloat16, "half", True)
    yield "rotate bfloat16, half, by table, in place", partial(half, in_place=True)
    yield "rotate bfloat16, half, by table, a quarter turns", partial(half, width=4)
    yield "rotate bfloat16, half, by table, back", partial(half, inverse=True)


def compiled(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield the rotations by a table beside torch.compile; none where nothing is timed."""
    for dtype in () if sizes.dry else (torch.bfloat16, torch.float32):
        for layout in ("half", "interleaved"):
            name = f"rotate {short(dtype)}, {layout}, by table, torch.compile"
            yield (
                name,
                partial(_case, sizes, dtype, layout, True, others=library_rotation.compiled),
            )


def _case(
    sizes: Sizes,
    dtype: torch.dtype,
    layout: str,
    by_table: bool,
    *,
    in_place: bool = False,
    inverse: bool = False,
    width: int = 1,
    others: Callable[..., library_rotation.Makes] = library_rotation.rotations,
) -> Case:
    rotary_dim = sizes.head_dim // width
    xs = [randn(sizes, sizes.tokens, h, sizes.head_dim, dtype=dtype) for h in sizes.heads]
    last = sizes.table if by_table else FAR
    ids = torch.randint(last, (sizes.tokens,), device=sizes.device)
    at = -ids if inverse else ids
    cos, sin = torch_baseline.tables(torch.arange(sizes.table, device=sizes.device), rotary_dim)
    table = [t[:, 0, : rotary_dim // 2].contiguous() for t in (cos, sin)]

    def side(layout: str) -> Side:
        told = reference.rotation(xs, at, layout, rotary_dim)
        outs = [x.clone() for x in xs] if in_place else poison(*xs)
        inputs = outs if in_place else xs
        if by_table:
            run = kernels.rotate(inputs, outs, table, ids, layout, inverse=inverse)
        else:
            run = kernels.rotate_at(inputs, outs, ids, frequencies(sizes), layout, inverse=inverse)
        return Side(layout, run, told)

    own = side(layout)
    moved = 2.0 * sum(x.nbytes for x in xs)
    over = [floors.over_copy(sizes, moved, least=0.85)]
    if layout == "interleaved":
        over.append(Over("half", [(side("half"), 1.0)], most=1.05))
    plain_call = by_table and not in_place and not inverse and width == 1
    makes = others(xs, ids, (cos, sin), layout, own.truth) if plain_call else ()
    return Case(own, over, moved, others=makes)


def frequencies(sizes: Sizes) -> Tensor:
    """Return radians per position of each pair, float64."""
    pairs = torch.arange(0, sizes.head_dim, 2, dtype=torch.float64, device=sizes.device)
    return 1e4 ** -(pairs / sizes.head_dim)
