"""The usual step of decoding on a CPU: one row, one token, one segment. Compiled code does it all.

The same functions as in the general way, on the same numbers, so the answers have the same bits.
What surrounds them is a large part of the time of a step of few keys.
"""

from array import array
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rope_core import compiled
from rope_core.angles import token_angles_at
from rope_core.backends.work import UNBOUNDED
from rope_core.kvcache.compute import compiled_attend
from rope_core.kvcache.compute.attend import sinks_tensor
from rope_core.kvcache.compute.page_memory import page_memory
from rope_core.kvcache.compute.rotation import COPY, CompiledRotation, compiled_rotation
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import LayerPlan

LANES, MAX_ROWS = compiled_attend.LANES, compiled_attend.MAX_ROWS


@dataclass(frozen=True, slots=True)
class DecodeForm:
    """What all steps of a group have in common."""

    group: KVGroup
    rotation: CompiledRotation
    q_shape: tuple[int, int, int]
    k_shape: tuple[int, int, int]
    v_shape: tuple[int, int, int]
    bounds: tuple[int, int, int]
    """Left and right end of the window, and the chunk."""
    scale: float
    softcap: float


@lru_cache(maxsize=256)
def _make_form(group: KVGroup) -> DecodeForm | None:
    """Return the form of a group; None if compiled code does not do its steps."""
    rotation, config = compiled_rotation(group.rope), group.attention
    is_odd = bool(group.head_dim % LANES or group.value_dim % LANES)
    has_many = group.num_heads > MAX_ROWS * group.num_kv_heads
    if rotation is None or is_odd or has_many or group.num_axes > 1:
        return None
    left, right = UNBOUNDED, 0 if config.causal else UNBOUNDED
    if config.window is not None:
        left, right = config.window - 1, config.window_ahead
    return DecodeForm(
        group,
        rotation,
        (1, group.num_heads, group.head_dim),
        (1, group.num_kv_heads, group.head_dim),
        (1, group.num_kv_heads, group.value_dim),
        (left, right, config.chunk or 0),
        group.head_dim**-0.5 if config.scale is None else float(config.scale),
        config.softcap or 0.0,
    )


_forms: dict[int, DecodeForm | None] = {}
"""By the identity of the group: its hash is computed from all of its fields."""


def _form_of(group: KVGroup) -> DecodeForm | None:
    form = _forms.get(id(group))
    if form is None or form.group is not group:
        if len(_forms) >= 1024:
            _forms.clear()
        form = _make_form(group)
        if form is not None and form.group is not group:  # an equal one
            form = DecodeForm(group, *[getattr(form, each) for each in form.__slots__[1:]])
        _forms[id(group)] = form
    return form


def decode(
    plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor, out_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, str] | None:
    """Write a token and attend from it.

    Args:
        plan: of a step; its copies and clears are done.
        q: `[1, H, D]`.
        k: `[1, Hkv, D]`, not rotated.
        v: `[1, Hkv, Dv]`.
        out_dtype: None for that of q.

    Returns:
        out `[1, H, Dv]`, lse float32 `[1, H]`, and the name of the backend. None where the general
        way must do it, or must refuse it; nothing is written then.
    """
    row, *others = plan.rows
    if others or row.num_new != 1 or row.num_queries != 1 or len(row.segments) != 1:
        return None
    group, pool, dtype = plan.group, plan.pool, plan.dtype
    form, attention, rotary = _form_of(group), compiled_attend.extension(), compiled.extension()
    if form is None or attention is None or rotary is None:
        return None
    if row.tail_mask is not None or pool.shape.dtype is not dtype:
        return None
    for x, shape in ((q, form.q_shape), (k, form.k_shape), (v, form.v_shape)):
        if x.shape != shape or x.dtype is not dtype or not x.is_cpu or not x.is_contiguous():
            return None
    memory = page_memory(pool)
    if not memory.keys.is_cpu:
        return None
    segment = row.segments[0]
    cos = sin = 0
    if group.rope is not None:
        assert plan.base_positions is not None, "the group has a rope"
        assert plan.q_positions is not None, "the group has a rope"
        base = int(plan.base_positions[0])
        if int(plan.q_positions[0]) - segment.shift[0] != base:
            return None
        angles = token_angles_at(group.rope, base)
        if angles.scale is not None:
            return None
        cos, sin = angles.cos.data_ptr(), angles.sin.data_ptr()
    page_tokens, size = memory.page_tokens, dtype.itemsize
    page, slot = divmod(int(plan.slots[0]), page_tokens)
    layer = plan.layer_in_group
    page += layer
    heads, kv_heads = group.num_heads, group.num_kv_heads
    width, value_width = group.head_dim, group.value_dim
    out_dtype = dtype if out_dtype is None else out_dtype
    rotated = torch.empty_like(q)
    out = torch.empty((1, heads, value_width), dtype=out_dtype)
    lse = torch.empty((1, heads))
    number, out_number = compiled.DTYPES[dtype], compiled.DTYPES[out_dtype]
    pairs, first, interleaved = form.rotation
    threads = torch.get_num_threads()
    rotate = rotary.rotate
    address = memory.key_address + page * memory.key_page_bytes + slot * width * size
    rotate(
        *(cos, sin, 1, pairs, kv_heads, width, first, number, interleaved, False, threads),
        *(k.data_ptr(), kv_heads * width, width, address, width, page_tokens * width, 1),
    )
    address = memory.value_address + page * memory.value_page_bytes + slot * value_width * size
    rotate(
        *(0, 0, 1, COPY.num_pairs, kv_heads, value_width, COPY.start, number, COPY.interleaved),
        *(False, threads, v.data_ptr(), kv_heads * value_width, value_width, address),
        *(value_width, page_tokens * value_width, 1),
    )
    rotated_address = rotated.data_ptr()
    rotate(
        *(cos, sin, 1, pairs, heads, width, first, number, interleaved, False, threads),
        *(q.data_ptr(), heads * width, width, rotated_address, heads * width, width, 1),
    )
    groups, num_keys = segment.page_groups, segment.num_keys
    numbers = array(
        "q",
        (
            *(1, 1, out.data_ptr(), lse.data_ptr(), 0, 0, 0, row.num_keys, 1, row.q_index[0]),
            *(rotated_address, segment.first_slot, num_keys),
            *(segment.first_place, segment.first_index, len(groups)),
        ),
    )
    numbers.frombytes(np.add(groups, layer, dtype=np.int64).tobytes())
    sinks = 0
    if group.sinks is not None:
        sinks = sinks_tensor(group.sinks[layer], q.device).data_ptr()
    attention.attend(
        *(numbers.buffer_info()[0], memory.key_address, memory.value_address),
        *(memory.key_page_bytes, memory.value_page_bytes, page_tokens, kv_heads),
        *(heads // kv_heads, width, value_width, number, out_number, *form.bounds, sinks),
        *(threads, num_keys * heads * (width + value_width), form.scale, form.softcap),
    )
    return out, lse, compiled_attend.name
