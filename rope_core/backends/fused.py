"""Backend of our Triton kernels: on CUDA, and on the CPU in Triton's interpreter."""

from contextlib import nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rope_core.backends.work import AttentionWork, FusedRotaryWork, MergeWork, RotaryWork, Work
from rope_core.config import RopeConfig
from rope_core.kernels.block_sizes import rows_contiguous
from rope_core.kernels.head_dims import HEAD_DIMS, PARTIAL_ROTARY_DIMS

name = "fused"

MAX_PROGRAMS = 2**31 - 1
"""Programs of a launch, along the one axis of its grid that may be so long."""


def only_named(device: torch.device) -> bool:
    """Tell whether kernels run on a device only when named: on the CPU they are interpreted."""
    return device.type == "cpu"


def why_not(work: Work, *, named: bool = False) -> str | None:
    """Everything on CUDA, except the rarer layouts of rotation, and widths that no model has."""
    if not named and only_named(work.device):
        return "it runs on the CPU only when it is named"
    if (reason := unavailable(work.device)) is not None:
        return reason
    match work:
        case RotaryWork():
            return _why_not_rotate(work)
        case AttentionWork():
            return _why_not_attend(work)
        case MergeWork() if len(work.out) > MAX_PROGRAMS:
            return f"there are more than {MAX_PROGRAMS} parts"
        case MergeWork() if (width := work.out.shape[-1]) not in HEAD_DIMS:
            return f"there are no kernels for heads of width {width}"
    return None


def _why_not_attend(work: AttentionWork) -> str | None:
    from rope_core.kernels.runtime import device_properties
    from rope_core.kernels.tile_configs import why_no_tile
    from rope_core.kernels.tile_scheduler import SPLIT_KEYS

    q, k, v = work.q, work.k, work.v
    num_seqs, num_keys = len(q), k.shape[1]
    if work.lengths is not None:
        num_seqs, num_keys = len(work.lengths[1]), max(work.lengths[1], default=0)
    # an upper bound of the programs that one launch takes
    if num_seqs * q.shape[-2] * 2 * max(64, num_keys // SPLIT_KEYS + 1) > MAX_PROGRAMS:
        return "there are more sequences, heads and keys than a launch has programs"
    return why_no_tile(device_properties(q.device), q.dtype, q.shape[-1], v.shape[-1])


def unavailable(device: torch.device) -> str | None:
    """Return why kernels cannot run on a device, None if they can."""
    runtime = _kernel_runtime()
    if runtime is None:
        return "triton is not installed"
    if device.type != "cuda" and device.type != runtime.device_type():
        return f"tensors are on {device.type}, not on a GPU"
    return None


def computes_angles(rope: RopeConfig) -> bool:
    """Tell whether a kernel computes the angles: products of positions and float64 frequencies."""
    are_products = rope.axes is None and rope.learned is None and rope.rope_type != "xpos"
    return are_products and rope.arithmetic == "float64" and _why_not_layout(rope) is None


def _why_not_rotate(work: RotaryWork) -> str | None:
    if (reason := _why_not_layout(work.rope)) is not None:
        return reason
    if work.scale is not None:
        return "xPos scales each pair"
    if work.cos.ndim != 2:
        return "the angles differ by head"
    return None


def _why_not_layout(rope: RopeConfig) -> str | None:
    if rope.layout not in ("half", "interleaved") or rope.blocks != 1 or rope.axes == "xdrope":
        return "the layout is neither half nor interleaved"
    if rope.rounding != "once":
        return f"it rounds once, not as rounding {rope.rounding!r}"
    return why_not_width(rope.head_dim, rope.rotary_dim)


def why_not_width(head_dim: int, rotary_dim: int) -> str | None:
    """Return why heads of a width have no kernel of rotation, None if they have one."""
    if head_dim not in HEAD_DIMS:
        return f"heads are {head_dim} wide, not a multiple of 16 up to {max(HEAD_DIMS)}, 72 or 88"
    if 4 * rotary_dim % head_dim and (head_dim, rotary_dim) not in PARTIAL_ROTARY_DIMS:
        return f"rotary_dim is {rotary_dim}, not a multiple of a quarter of {head_dim}"
    return None


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`, on its device."""
    with torch.cuda.device(work.device) if work.device.type == "cuda" else nullcontext():
        match work:
            case RotaryWork() | FusedRotaryWork():
                return _rotate(work)
            case AttentionWork():
                out, lse = work.empty_outputs()
                attend(work, out, lse)
                return out, lse
            case MergeWork():
                return _merge(work)


def _rotate(work: RotaryWork | FusedRotaryWork) -> tuple[Tensor, ...]:
    from rope_core.kernels import rotary

    rope = work.rope
    xs, outs = ([*map(rows_contiguous, tensors)] for tensors in (work.xs, work.outs))
    options: dict[str, Any] = {
        "rotary_dim": rope.rotary_dim,
        "layout": rope.layout,
        "inverse": work.inverse,
        "trailing": rope.trailing,
    }
    if isinstance(work, FusedRotaryWork):
        positions = work.positions
        # one dtype of each kind, as each dtype is a kernel of its own
        positions = positions.double() if positions.is_floating_point() else positions.long()
        options |= {"inv_freq": work.inv_freq, "index": positions}
        options["attention_scaling"] = work.attention_scaling
    else:
        options["table"] = work.cos.contiguous(), work.sin.contiguous()
    rotary.rotate(xs, outs, **options)
    for work_out, out in zip(work.outs, outs, strict=True):
        if out is not work_out:
            work_out.copy_(out)
    return work.outs


def attend(work: AttentionWork, out: Tensor, lse: Tensor) -> None:
    """Attend into `out` and `lse` of the shapes of `work.empty_outputs()`, both contiguous.

    Raises what `kernels.attention.attend` raises.
    """
    from rope_core.kernels import attention

    q, k, v, lengths, index = work.q, work.k, work.v, work.lengths, work.index
    if lengths is None:
        num_rows = len(q)
        lengths = (q.shape[1],) * num_rows, (k.shape[1],) * num_rows
        q, k, v, out, lse = [x.flatten(0, 1) for x in (q, k, v, out, lse)]
    if index is not None:
        # one row for the whole batch may be expanded, also after flatten
        index = index[0].flatten().contiguous(), index[1].flatten().contiguous()
    cu_seqlens = work.cu_seqlens
    if cu_seqlens is not None:
        is_readable = all(t.device == q.device and t.dtype is torch.int32 for t in cu_seqlens)
        starts_q, starts_k = cu_seqlens
        cu_seqlens = (starts_q.contiguous(), starts_k.contiguous()) if is_readable else None
    attention.attend(
        *(q, k, v, out, lse, work.config),
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        sinks=None if work.sinks is None else work.sinks.contiguous(),
        mask=work.mask,
        index=index,
    )


def _merge(work: MergeWork) -> tuple[Tensor, Tensor]:
    from rope_core.kernels.merge import merge

    parts, lse = work.out, work.lse
    out = torch.empty(parts.shape[1:], dtype=parts.dtype, device=parts.device)
    out_lse = torch.empty(lse.shape[1:], dtype=torch.float32, device=lse.device)
    lse = lse.flatten(1) if lse.ndim > 1 else lse[:, None]
    parts = rows_contiguous(parts.reshape(*lse.shape, parts.shape[-1]))
    merge(parts, rows_contiguous(lse), out.view(parts.shape[1:]), out_lse.view(lse.shape[1:]))
    return out, out_lse


@lru_cache(maxsize=1)
def _kernel_runtime() -> ModuleType | None:
    """Return the module `rope_core.kernels.runtime`, None where Triton is not installed."""
    try:
        from rope_core.kernels import runtime
    except ImportError:
        return None
    return runtime
