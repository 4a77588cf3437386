"""Our Triton kernels: on CUDA, and on the CPU where triton's interpreter is switched on."""

from contextlib import nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rope_core.backends.work import Attention, Merging, Rotation, Turning, Work
from rope_core.config import RopeConfig

name = "fused"

PROGRAMS = 2**31 - 1
"""Programs of a launch, along the one axis of its grid that may be so long."""

WIDTHS = frozenset({*range(16, 257, 16), 72, 88})
"""Widths of heads that are rotated or merged: a list, as each is a kernel of its own. 72 and 88 are
those of Qwen3-VL's and Llama 4's vision."""

PARTIAL_WIDTHS = frozenset({(80, 32), (192, 64)})
"""Widths of heads with how many elements turn, beside quarters of the width."""


def only_named(device: torch.device) -> bool:
    """Tell whether kernels run on a device only if asked for: on the CPU an interpreter does it."""
    return device.type == "cpu"


def why_not(work: Work, *, named: bool = False) -> str | None:
    """Everything on CUDA, but the rarer layouts of rotation, and widths that no model has."""
    if not named and only_named(work.device):
        return "it runs on the CPU only when it is named"
    if (missing := unavailable(work.device)) is not None:
        return missing
    match work:
        case Rotation():
            return _why_not_rotate(work)
        case Merging() if len(work.out) > PROGRAMS:
            return f"there are more than {PROGRAMS} parts"
        case Merging() if (width := work.out.shape[-1]) not in WIDTHS:
            return f"there are no kernels for heads of width {width}"
        case Attention():
            return _why_not_attend(work)
    return None


def _why_not_attend(work: Attention) -> str | None:
    from rope_core.kernels.device_properties import card_of
    from rope_core.kernels.tile_configs import why_no_tile

    if _most_programs(work) > PROGRAMS:
        return "there are more sequences, heads and keys than a launch has programs"
    q, v = work.q, work.v
    return why_no_tile(card_of(q.device), q.dtype, q.shape[-1], v.shape[-1])


def _most_programs(work: Attention) -> int:
    """Return an upper bound of the programs that one launch of a call takes."""
    from rope_core.kernels.tile_scheduler import PART_KEYS

    heads = work.q.shape[-2]
    if work.lengths is None:
        rows, num_keys = work.q.shape[0], work.k.shape[1]
    else:
        rows, num_keys = len(work.lengths[1]), max(work.lengths[1], default=0)
    return rows * heads * 2 * max(64, num_keys // PART_KEYS + 1)


def unavailable(device: torch.device) -> str | None:
    """Return why kernels cannot run on a device, None if they can."""
    kernels = _kernels()
    if kernels is None:
        return "triton is not installed"
    if device.type != "cuda" and device.type != kernels.device_type():
        return f"tensors are on {device.type}, not on a GPU"
    return None


def turns(rope: RopeConfig) -> bool:
    """Tell whether a rotation is by products of positions and frequencies, in float64."""
    products = rope.axes is None and rope.learned is None and rope.rope_type != "xpos"
    return products and rope.arithmetic == "float64" and _why_not_layout(rope) is None


def _why_not_rotate(work: Rotation) -> str | None:
    if (reason := _why_not_layout(work.rope)) is not None:
        return reason
    if work.scale is not None:
        return "xPos scales each pair"
    if work.cos.ndim != 2:
        return "each head has angles of its own"
    return None


def _why_not_layout(rope: RopeConfig) -> str | None:
    if rope.layout not in ("half", "interleaved") or rope.blocks != 1 or rope.axes == "xdrope":
        return "pairs lie otherwise than in halves, or next to each other"
    if rope.rounding != "once":
        return f"it rounds once, not as {rope.rounding} says"
    return _why_not_width(rope.head_dim, rope.rotary_dim)


def _why_not_width(head_dim: int, rotary_dim: int) -> str | None:
    if head_dim not in WIDTHS:
        return f"heads are {head_dim} wide, not a multiple of 16 up to {max(WIDTHS)}, 72 or 88"
    if 4 * rotary_dim % head_dim and (head_dim, rotary_dim) not in PARTIAL_WIDTHS:
        return f"{rotary_dim} of {head_dim} elements turn, not a quarter, a half or all of them"
    return None


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`, on its device."""
    with torch.cuda.device(work.device) if work.device.type == "cuda" else nullcontext():
        match work:
            case Rotation() | Turning():
                return _rotate(work)
            case Attention():
                out, lse = work.new_out()
                attend(work, out, lse)
                return out, lse
            case Merging():
                return _merge(work)


def _rotate(work: Rotation | Turning) -> tuple[Tensor, ...]:
    from rope_core.kernels import rotary

    rope = work.rope
    xs, outs = ([*map(_rows_contiguous, each)] for each in (work.xs, work.outs))
    how: dict[str, Any] = {
        "rotary_dim": rope.rotary_dim,
        "layout": rope.layout,
        "inverse": work.inverse,
        "trailing": rope.trailing,
    }
    if isinstance(work, Turning):
        positions = work.positions
        # one dtype of each kind, as each is a kernel of its own
        positions = positions.double() if positions.is_floating_point() else positions.long()
        rotary.rotate_at(xs, outs, positions, work.inv_freq, gain=work.gain, **how)
    else:
        rotary.rotate(xs, outs, work.cos.contiguous(), work.sin.contiguous(), **how)
    for given, out in zip(work.outs, outs, strict=True):
        if out is not given:
            given.copy_(out)
    return work.outs


def attend(work: Attention, out: Tensor, lse: Tensor) -> None:
    """Attend into `out` and `lse` of the shapes of `work.new_out()`, both contiguous.

    Raises what `kernels.attention.attend` raises.
    """
    from rope_core.kernels import attention

    q, k, v, config = work.q, work.k, work.v, work.config
    lengths, index = work.lengths, work.index
    if lengths is None:
        rows = len(q)
        lengths = (q.shape[1],) * rows, (k.shape[1],) * rows
        q, k, v, out, lse = [x.flatten(0, 1) for x in (q, k, v, out, lse)]
        index = None if index is None else (index[0].flatten(), index[1].flatten())
    cu_seqlens_q, cu_seqlens_k = _device_cu_seqlens(work)
    # an index that is one row for the whole batch may be expanded, also after flatten
    of_q, of_k = (None, None) if index is None else (index[0].contiguous(), index[1].contiguous())
    attention.attend(
        *(q, k, v, out, lse),
        lengths_q=lengths[0],
        lengths_k=lengths[1],
        scale=work.scale,
        causal=config.causal,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        window=config.window,
        window_ahead=config.window_ahead,
        chunk=config.chunk,
        softcap=config.softcap,
        sinks=None if work.sinks is None else work.sinks.contiguous(),
        mask=work.mask,
        q_index=of_q,
        k_index=of_k,
    )


def _device_cu_seqlens(work: Attention) -> tuple[Tensor | None, Tensor | None]:
    """Return `cu_seqlens` if kernels can read them as they are, else None (see `attend`)."""
    if work.cu_seqlens is None:
        return None, None
    of_q, of_k = work.cu_seqlens
    if any(t.device != work.q.device or t.dtype is not torch.int32 for t in (of_q, of_k)):
        return None, None
    return of_q.contiguous(), of_k.contiguous()


def _merge(work: Merging) -> tuple[Tensor, Tensor]:
    from rope_core.kernels import merge

    parts, lse = work.out, work.lse
    out = torch.empty(parts.shape[1:], dtype=parts.dtype, device=parts.device)
    to_lse = torch.empty(lse.shape[1:], dtype=torch.float32, device=lse.device)
    rows = lse.flatten(1) if lse.ndim > 1 else lse[:, None]
    flat = _rows_contiguous(parts.reshape(*rows.shape, parts.shape[-1]))
    merge.merge(flat, _rows_contiguous(rows), out.view(flat.shape[1:]), to_lse.view(rows.shape[1:]))
    return out, to_lse


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """Return the package `rope_core.kernels`, None where Triton is not installed."""
    try:
        from rope_core import kernels
    except ImportError:
        return None
    return kernels
