"""Sizes of the cases, and helpers that create tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the cases: several times the L2 cache, or as many buffers."""

    device: str = "cuda"
    copy_bytes: int = 2**30
    matmul_size: int = 8192
    """Rows and columns of the matrices."""

    heads: tuple[int, int] = (32, 8)
    """Query heads and key/value heads."""

    head_dim: int = 128
    tokens: int = 16_384
    """Tokens of a rotation, and of a batch of prompts."""

    table_length: int = 131_072
    """Positions of a table of cosines and sines."""

    merge_rows: int = 262_144
    """Tokens times heads."""

    shifted_keys: int = 131_072
    page_size: int = 16
    decode_batches: tuple[int, ...] = (32, 64)
    decode_keys: tuple[int, int] = (1024, 16_384)
    """Fewest and most keys of a sequence."""

    long_keys: int = 65_536
    """Keys of a single long sequence."""

    skewed_decode: tuple[int, int, int] = (63, 1024, 131_072)
    """Number of short sequences, keys of each, and keys of the one long sequence."""

    append_queries: tuple[int, ...] = (5, 17, 32, 256)
    """New queries over `long_keys` keys; times the heads of a group, 20 to 1,024 rows."""

    masked_length: int = 4096
    window_size: int = 1024
    prompt_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    head_dims: tuple[int, ...] = (64, 128, 256)
    hidden_size: int = 2048
    """Heads times head_dim of the prompts that are compared with other libraries."""

    ragged_lengths: tuple[int, int, int] = (64, 64, 4096)
    """Number of sequences, and their shortest and longest length."""

    fused_lengths: tuple[tuple[int, float], ...] = ((2048, 1.15), (8192, 1.06))
    """Lengths of prompts that are rotated and attended, and the goal of each."""

    short_keys: int = 1024
    """Keys of a decode in a CUDA graph."""

    graph_calls: int = 64
    transfer_bytes: tuple[int, ...] = (2**16, 2**20, 2**26)
    """Sizes of copies between host and device. The largest is also page-locked and released."""

    @property
    def dry_run(self) -> bool:
        """Whether kernels are interpreted on the CPU."""
        return self.device == "cpu"


FULL = Sizes()
DRY_RUN = Sizes(
    device="cpu",
    copy_bytes=1024,
    matmul_size=16,
    heads=(4, 2),
    head_dim=32,
    tokens=48,
    table_length=512,
    merge_rows=40,
    shifted_keys=40,
    decode_batches=(2,),
    decode_keys=(20, 70),
    long_keys=100,
    skewed_decode=(3, 10, 600),
    append_queries=(9,),
    masked_length=24,
    window_size=12,
    prompt_lengths=(48,),
    head_dims=(32,),
    hidden_size=64,
    ragged_lengths=(3, 5, 40),
    fused_lengths=((32, 1.15),),
    short_keys=40,
    graph_calls=2,
    transfer_bytes=(64, 4096),
)


def randn(sizes: Sizes, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return random numbers. Zeros would multiply faster than the values of a model."""
    return torch.randn(shape, device=sizes.device).to(dtype)


def nan_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return output tensors filled with NaN, so that an element that is not written is noticed."""
    return tuple(torch.full_like(x, torch.nan) for x in tensors)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without the prefix `torch.`."""
    return str(dtype).removeprefix("torch.")
