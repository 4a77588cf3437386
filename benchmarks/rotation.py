"""Rotation, compared with a copy of the same bytes; small rotations also with plain torch calls.

For a small tensor, the time of the copy is the overhead of one torch call.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import oracle, torch_baseline
from benchmarks.case import Case, Sizes
from benchmarks.timing import Function
from rope_core import Layout, RopeConfig, Rotate, Rotated, rotate


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases one by one, so that only the tensors of one case are in memory."""
    for dtype in (torch.float32, torch.bfloat16):
        for layout in ("half", "interleaved"):
            yield _case("rotate", sizes.large_shape, dtype, layout)
    for name, shape in (("tiny", (1, 16, 8, 64)), ("one token", (1, 1, 32, 128))):
        case = _case(f"rotate, {name}", shape, torch.float32, "half")
        yield case
        yield replace(case, floor_name="plain torch call", floor=_plain_rotation(shape))


def _case(name: str, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout) -> Case:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    rope = RopeConfig.of(shape[-1], layout=layout)
    positions = torch.arange(shape[1])
    call = Rotate(x, None, rope, positions=positions)
    rotated, copied = torch.empty_like(x), torch.empty_like(x)
    out = Rotated(rotated, None)
    title = f"{name} {list(shape)} {str(dtype).removeprefix('torch.')} {layout}"

    def check() -> None:
        rotated.fill_(torch.nan)
        rotate(call, out)
        for row in range(shape[0]):
            expected = oracle.rotate(x[row], positions, layout=layout)
            oracle.check(title, rotated[row], expected)

    def floor() -> Tensor:
        return copied.copy_(x)

    return Case(title, lambda: rotate(call, out), check, "copy", floor, 2.0 * x.nbytes)


def _plain_rotation(shape: tuple[int, ...]) -> Function:
    x = torch.randn(shape)
    cos, sin = torch_baseline.tables(torch.arange(shape[1]), shape[-1])
    return torch.inference_mode()(lambda: torch_baseline.rotate(x, cos, sin))
