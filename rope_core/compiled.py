"""Rotation by compiled code on the CPU, bit-equal to the operators of torch.

The extension is missing where there was no compiler, and not used where torch rounds otherwise (a
processor without FMA). Operators of torch compute the same answers there.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from types import ModuleType

import torch
from torch import Tensor

from rope_core import torch_rotation

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Dtypes of the extension, and their numbers there."""


@lru_cache(maxsize=1)
def extension() -> ModuleType | None:
    """Return the extension, or None if it is missing or its answers differ from those of torch."""
    try:
        from rope_core import _rotary
    except ImportError:
        return None
    return _rotary if _is_equal(_rotary) else None


def _is_equal(module: ModuleType) -> bool:
    """Tell whether the extension gives the bits of torch, in whole vectors and behind them."""
    generator = torch.Generator().manual_seed(0)
    num_tokens, num_heads, num_pairs = 3, 2, 45
    x = torch.randn(num_tokens, num_heads, 2 * num_pairs, generator=generator)
    angles = torch.rand(num_tokens, num_pairs, generator=generator) * 6.28
    tables = angles.cos(), angles.sin()
    for dtype, interleaved, inverse in product(DTYPES, (False, True), (False, True)):
        args = x.to(dtype), *tables, interleaved, inverse
        outs = torch.empty_like(args[0]), torch.empty_like(args[0])
        module.rotate(*rotate_args(outs[0], 0, *args))
        torch_rotation.rotate(outs[1], *args)
        if not torch.equal(*outs):
            return False
    return True


def can_rotate(module: ModuleType, out: Tensor, x: Tensor, cos: Tensor) -> bool:
    """Tell whether the extension can rotate `x` `[T, H, D]` into `out` by cosines `[T, n]`."""
    width = 2 * cos.shape[1]
    return x.is_cpu and x.stride(2) == out.stride(2) == 1 and width <= module.MAX_WIDTH


def rotate_args(
    out: Tensor, start: int, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool
) -> tuple[int, ...]:
    """Return the arguments of the extension's `rotate`. The tensors must outlive its call.

    Args:
        out: of the shape and dtype of x, or x itself.
        start: the first rotated channel. Channels that are not rotated are copied.
        x: `[T, H, D]`, float32, bfloat16 or float16; channels are contiguous.
        cos: float32 `[T, n]`, contiguous, of 2 * n rotated channels.
        sin: as cos.
        interleaved: whether channels 2 i and 2 i + 1 are a pair, or channels i and n + i.
        inverse: whether to rotate back.
    """
    num_tokens, num_heads, head_dim = x.shape
    return (
        *(cos.data_ptr(), sin.data_ptr(), num_tokens, cos.shape[1], num_heads, head_dim, start),
        *(DTYPES[x.dtype], interleaved, inverse, torch.get_num_threads()),
        *(x.data_ptr(), *x.stride()[:2], out.data_ptr(), *out.stride()[:2], num_tokens),
    )


class TokenRotation:
    """Rotation of contiguous tokens `[T, H, D]` at an address, prepared once for many runs.

    Attributes:
        run: takes the addresses of x, of out (that of x to rotate in place) and of positions,
            int64 `[T]`, and the number of tokens. Addresses need no alignment. Returns the largest
            |x|, NaN if x holds one, or -1.0 if a position has no row: then nothing is written.
            A run of 2**18 elements or more releases the GIL. It takes a thread for each 2**20
            elements, at most as many as torch had when the rotation was made.
    """

    __slots__ = ("run",)

    run: Callable[[int, int, int, int], float]

    def __init__(
        self,
        cos: Tensor,
        sin: Tensor,
        *,
        num_heads: int,
        head_dim: int,
        rotary_dim: int,
        dtype: torch.dtype,
        layout: str,
        inverse: bool = False,
        trailing: bool = False,
    ) -> None:
        """Prepare the rotation.

        Args:
            cos: float32 `[rows, rotary_dim / 2]`: the cosines at positions 0, 1, ...
            sin: as cos.
            num_heads: H.
            head_dim: D.
            rotary_dim: number of rotated channels. The others are copied.
            dtype: of x and out: float32, bfloat16 or float16.
            layout: "half" or "interleaved".
            inverse: whether to rotate back.
            trailing: whether the last channels are rotated instead of the first.
        """
        cos, sin = cos.contiguous(), sin.contiguous()
        start = head_dim - rotary_dim if trailing else 0
        interleaved = {"half": False, "interleaved": True}[layout]
        module = extension()
        if module is None or rotary_dim > module.MAX_WIDTH:
            shape = num_heads, head_dim
            self.run = partial(_run_torch, cos, sin, shape, start, dtype, interleaved, inverse)
            return
        self.run = module.TokenRotation(
            *(cos.data_ptr(), sin.data_ptr(), *cos.shape, num_heads, head_dim, start),
            *(DTYPES[dtype], interleaved, inverse, torch.get_num_threads(), (cos, sin)),
        ).run


def _run_torch(
    cos: Tensor,
    sin: Tensor,
    shape: tuple[int, int],
    start: int,
    dtype: torch.dtype,
    interleaved: bool,
    inverse: bool,
    x_address: int,
    out_address: int,
    positions_address: int,
    num_tokens: int,
) -> float:
    """Rotate as `TokenRotation.run` by operators of torch."""
    if not num_tokens:
        return 0.0
    positions = _tensor_at(positions_address, (num_tokens,), torch.int64)
    first, last = positions.aminmax()
    if first < 0 or last >= len(cos):
        return -1.0
    x, out = (_tensor_at(a, (num_tokens, *shape), dtype) for a in (x_address, out_address))
    largest = float(x.abs().max())
    if x_address != out_address:
        out.copy_(x)
    rotated = out[..., start : start + 2 * cos.shape[1]]
    torch_rotation.rotate(rotated, rotated, cos[positions], sin[positions], interleaved, inverse)
    return largest


def max_abs(address: int, num_elements: int, dtype: torch.dtype) -> float:
    """Return the largest |x| of contiguous elements; 0.0 if there are none, NaN if one is NaN."""
    module = extension()
    if module is not None:
        largest: float = module.max_abs(address, num_elements, DTYPES[dtype])
        return largest
    if not num_elements:
        return 0.0
    return float(_tensor_at(address, (num_elements,), dtype).abs().max())


def _tensor_at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the memory at `address` as a contiguous tensor of at least one element."""
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    memory = (ctypes.c_char * num_bytes).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
