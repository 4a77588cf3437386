"""New keys and values written into pages in one launch, the keys rotated on the way."""

from torch import Tensor

from rope_core.kernels.block_sizes import (
    cdiv,
    head_blocks,
    next_power_of_2,
    rows_contiguous,
    stride_unit,
)
from rope_core.kernels.launcher import KernelLaunch, Launcher, launch_all
from rope_core.kernels.rotary import MAX_HEADS, TILE_ELEMENTS, Layout
from rope_core.kernels.scatter_kernel import scatter_kernel

LAUNCHER = Launcher(scatter_kernel, num_tensors=7)


def scatter(
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    *,
    positions: Tensor | None = None,
    inv_freq: Tensor | None = None,
    attention_scaling: float = 1.0,
    rotary_dim: int = 0,
    layout: Layout = "half",
    trailing: bool = False,
) -> None:
    """Write keys and values of T tokens into pages.

    Args:
        k: `[T, Hkv, D]`, float32, float16 or bfloat16, any strides.
        v: `[T, Hkv, Dv]`, of the same dtype, any strides.
        keys: pages `[pages, Hkv, page_size, D]` of that dtype; the slots of a head are contiguous.
        values: as keys, Dv wide.
        slots: int64 `[T]`, contiguous: page * page_size + slot of each token, each at most once.
        positions: int64 `[T]`; None to write the keys as they are.
        inv_freq: float64 `[rotary_dim / 2]`, contiguous, radians per position; with positions.
        attention_scaling: multiplier of cosines and sines.
        rotary_dim: how many elements of a head are rotated.
        layout: which elements are pairs.
        trailing: rotate the last elements of a head, not the first.

    Rounds as `rotary.rotate` does. Cost: one launch; each element is read and written once.

    Raises:
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    if not len(k):
        return
    k, v = rows_contiguous(k), rows_contiguous(v)
    (num_tokens, num_heads, head_dim), value_dim = k.shape, v.shape[2]
    assert keys.stride(2) == head_dim, "slots of a head are contiguous"
    assert values.stride(2) == value_dim, "slots of a head are contiguous"
    rows = max(1, TILE_ELEMENTS // next_power_of_2(max(head_dim, value_dim)))
    block_heads = head_blocks([num_heads], min(rows, MAX_HEADS))
    block_tokens = rows // block_heads
    # the slots of a page stand for their first row in units of elements
    pages = [(x.shape[:2] + x.shape[3:], x.stride()[:2] + x.stride()[3:]) for x in (keys, values)]
    unit = stride_unit((k.shape, k.stride()), (v.shape, v.stride()), *pages)
    launch = KernelLaunch(
        LAUNCHER,
        (cdiv(num_tokens, block_tokens) * cdiv(num_heads, block_heads),),
        (k, v, keys, values, slots, positions, inv_freq),
        (
            *(attention_scaling, attention_scaling, num_tokens, num_heads),
            0 if positions is None else positions.stride(0),
            *(x.stride(axis) // unit for x in (k, v, keys, values) for axis in (0, 1)),
        ),
        {
            "HEAD_DIM": head_dim,
            "VALUE_DIM": value_dim,
            "ROTARY_DIM": rotary_dim,
            "ROTARY_START": head_dim - rotary_dim if trailing else 0,
            "INTERLEAVED": layout == "interleaved",
            "PAGE_SIZE": keys.shape[2],
            "STRIDE_UNIT": unit,
            "BLOCK_T": block_tokens,
            "BLOCK_H": block_heads,
            "BLOCK_D": next_power_of_2(head_dim),
            "BLOCK_DV": next_power_of_2(value_dim),
            "BLOCK_HALF": next_power_of_2(max(1, rotary_dim // 2)),
        },
    )
    launch_all([launch])
