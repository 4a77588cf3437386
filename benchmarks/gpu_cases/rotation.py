"""Rotation of q and k: compared with a copy of as many bytes, and interleaved with half-split.

Bytes are those of q and k, read and written. Tables and positions are not counted.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import torch_baseline
from benchmarks.gpu_cases import floors, kernels, library_rotation, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider, ProviderFactory
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, nan_like, randn

MAX_POSITION = 1_000_000
"""Limit of the positions of calls without a table."""


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    for dtype in (torch.bfloat16, torch.float32):
        for layout in ("half", "interleaved"):
            for source in ("table", "positions"):
                name = f"rotate {dtype_name(dtype)}, {layout}, by {source}"
                yield name, partial(_case, sizes, dtype, layout, source == "table")
    half = partial(_case, sizes, torch.bfloat16, "half", True)
    yield "rotate bfloat16, half, by table, in place", partial(half, in_place=True)
    yield "rotate bfloat16, half, by table, a quarter of each head", partial(half, divisor=4)
    yield "rotate bfloat16, half, by table, inverse", partial(half, inverse=True)


def compiled(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield rotations by a table beside torch.compile; none in a dry run."""
    for dtype in () if sizes.dry_run else (torch.bfloat16, torch.float32):
        for layout in ("half", "interleaved"):
            name = f"rotate {dtype_name(dtype)}, {layout}, by table, torch.compile"
            list_libraries = library_rotation.compiled
            yield name, partial(_case, sizes, dtype, layout, True, list_libraries=list_libraries)


def _case(
    sizes: Sizes,
    dtype: torch.dtype,
    layout: str,
    from_table: bool,
    *,
    in_place: bool = False,
    inverse: bool = False,
    divisor: int = 1,
    list_libraries: Callable[..., Sequence[ProviderFactory]] = library_rotation.rotations,
) -> Case:
    rotary_dim = sizes.head_dim // divisor
    xs = [randn(sizes, sizes.tokens, h, sizes.head_dim, dtype=dtype) for h in sizes.heads]
    limit = sizes.table_length if from_table else MAX_POSITION
    positions = torch.randint(limit, (sizes.tokens,), device=sizes.device)
    all_positions = torch.arange(sizes.table_length, device=sizes.device)
    tables = torch_baseline.tables(all_positions, rotary_dim)
    table = [t[:, 0, : rotary_dim // 2].contiguous() for t in tables]

    def provider(layout: str) -> Provider:
        signed_positions = -positions if inverse else positions
        expected = reference.rotation(xs, signed_positions, layout, rotary_dim)
        outs = [x.clone() for x in xs] if in_place else nan_like(*xs)
        inputs = outs if in_place else xs
        if from_table:
            run = kernels.rotate(inputs, outs, table, positions, layout, inverse=inverse)
        else:
            inv_freq = frequencies(sizes)
            run = kernels.rotate_at(inputs, outs, positions, inv_freq, layout, inverse=inverse)
        return Provider(layout, run, expected)

    ours = provider(layout)
    num_bytes = 2.0 * sum(x.nbytes for x in xs)
    comparisons = [floors.copy_comparison(sizes, num_bytes, min_ratio=0.85)]
    if layout == "interleaved":
        comparisons.append(Comparison("half", [(provider("half"), 1.0)], max_ratio=1.05))
    libraries: Sequence[ProviderFactory] = ()
    if from_table and not in_place and not inverse and divisor == 1:
        libraries = list_libraries(xs, positions, tables, layout, ours.expected)
    return Case(ours, comparisons, num_bytes, libraries=libraries)


def frequencies(sizes: Sizes) -> Tensor:
    """Return the frequency of each pair, radians per position, float64 `[head_dim / 2]`."""
    pairs = torch.arange(0, sizes.head_dim, 2, dtype=torch.float64, device=sizes.device)
    return 1e4 ** -(pairs / sizes.head_dim)
