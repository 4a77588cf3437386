"""Rotation, compared with a copy of the same bytes; small rotations also with plain torch calls.

For a small tensor, the time of the copy is the overhead of one torch call. A name ends with "by
torch" where the compiled rotation is missing.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import oracle, torch_baseline
from benchmarks.case import Case, Sizes
from benchmarks.timing import Function
from rope_core import Layout, RopeConfig, Rotate, Rotated, compiled, rotate


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases one by one, so that only the tensors of one case are in memory."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout in ("half", "interleaved"):
            yield _case("rotate", sizes.large_shape, dtype, layout)
    for layout in ("half", "interleaved"):
        yield _pack_case(layout)
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
    title = _title(name, shape, dtype, layout)

    def check() -> None:
        rotated.fill_(torch.nan)
        rotate(call, out)
        for row in range(shape[0]):
            expected = oracle.rotate(x[row], positions, layout=layout)
            oracle.check(title, rotated[row], expected)

    def floor() -> Tensor:
        return copied.copy_(x)

    return Case(title, lambda: rotate(call, out), check, "copy", floor, 2.0 * x.nbytes)


def _pack_case(layout: Layout) -> Case:
    """Return the case of tokens that lie at an address, as the service packs them: in place."""
    num_tokens, num_heads, width = shape = (256, 8, 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(num_tokens)
    cos, sin = torch_baseline.tables(positions, width)
    rotation = compiled.TokenRotation(
        *(cos[:, 0, : width // 2], sin[:, 0, : width // 2]),
        num_heads=num_heads,
        head_dim=width,
        rotary_dim=width,
        dtype=x.dtype,
        layout=layout,
    )
    rotated, copied = x.clone(), torch.empty_like(x)
    title = _title("rotate in place, a pack", shape, x.dtype, layout)
    address, positions_address = rotated.data_ptr(), positions.data_ptr()

    def run() -> float:
        return rotation.run(address, address, positions_address, num_tokens)

    def check() -> None:
        rotated.copy_(x)
        run()
        oracle.check(title, rotated, oracle.rotate(x, positions, layout=layout))

    def floor() -> Tensor:
        return copied.copy_(x)

    return Case(title, run, check, "copy", floor, 2.0 * x.nbytes)


def _title(name: str, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout) -> str:
    how = "" if compiled.extension() is not None else ", by torch"
    return f"{name} {list(shape)} {str(dtype).removeprefix('torch.')} {layout}{how}"


def _plain_rotation(shape: tuple[int, ...]) -> Function:
    x = torch.randn(shape)
    cos, sin = torch_baseline.tables(torch.arange(shape[1]), shape[-1])
    return torch.inference_mode()(lambda: torch_baseline.rotate(x, cos, sin))
