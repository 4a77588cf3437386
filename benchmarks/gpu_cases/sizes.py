"""How large the cases are, and tensors for them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the cases are: several times what the L2 cache holds, or as many buffers."""

    device: str = "cuda"
    copied: int = 2**30
    """Bytes of the copy."""

    matrix: int = 8192
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    tokens: int = 16_384
    """That are rotated, and of dense prompts."""

    table: int = 131_072
    """Positions of a table."""

    merged: int = 262_144
    """Rows, tokens times heads."""

    moved: int = 131_072
    """Keys that are re-positioned."""

    page_size: int = 16
    batches: tuple[int, ...] = (32, 64)
    cached: tuple[int, int] = (1024, 16_384)
    """Least and most keys of a decode."""

    long: int = 65_536
    skewed: tuple[int, int, int] = (63, 1024, 131_072)
    """How many short sequences of a decode, their keys, and the keys of the one long sequence."""

    appended: tuple[int, ...] = (5, 17, 32, 256)
    """Queries of one sequence over `long` keys: times the group, 20 to 1,024 rows."""

    masked: int = 4096
    """Length of a prompt with a mask."""

    window: int = 1024
    prompts: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    widths: tuple[int, ...] = (64, 128, 256)
    hidden: int = 2048
    """Heads times width of prompts that are held against other libraries."""

    ragged: tuple[int, int, int] = (64, 64, 4096)
    fused: tuple[tuple[int, float], ...] = ((2048, 1.15), (8192, 1.06))
    """Lengths of prompts that are rotated and attended, and the goal."""

    small: int = 1024
    """Keys of a small decode."""

    calls: int = 64
    """In a graph."""

    transferred: tuple[int, ...] = (2**16, 2**20, 2**26)
    """Bytes of copies between host and device; the largest is also pinned and unpinned."""

    @property
    def dry(self) -> bool:
        """Whether kernels are interpreted."""
        return self.device == "cpu"


FULL = Sizes()
DRY = Sizes(
    device="cpu",
    copied=1024,
    matrix=16,
    heads=(4, 2),
    head_dim=32,
    tokens=48,
    table=512,
    merged=40,
    moved=40,
    batches=(2,),
    cached=(20, 70),
    long=100,
    skewed=(3, 10, 600),
    appended=(9,),
    masked=24,
    window=12,
    prompts=(48,),
    widths=(32,),
    hidden=64,
    ragged=(3, 5, 40),
    fused=((32, 1.15),),
    small=40,
    calls=2,
    transferred=(64, 4096),
)


def randn(sizes: Sizes, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return random numbers; zeros are faster to multiply than what a model computes."""
    return torch.randn(shape, device=sizes.device).to(dtype)


def poison(*like: Tensor) -> tuple[Tensor, ...]:
    """Return tensors for an answer, every element NaN until it is written."""
    return tuple(torch.full_like(x, torch.nan) for x in like)


def short(dtype: torch.dtype) -> str:
    """Return its name."""
    return str(dtype).removeprefix("torch.")
