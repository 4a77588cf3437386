"""The usual step of decoding on a CPU: one token and one segment a row. Compiled code does it all.

The same functions as in the general way, on the same numbers, so the answers have the same bits.
What surrounds them is a large part of the time of a step of few keys.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rope_core import compiled
from rope_core.angles import Angles, token_angles_at
from rope_core.backends.work import UNBOUNDED
from rope_core.config import RopeConfig
from rope_core.kvcache.compute import compiled_attend
from rope_core.kvcache.compute.attend import sinks_tensor
from rope_core.kvcache.compute.page_memory import page_memory
from rope_core.kvcache.compute.rotation import (
    CompiledRotation,
    compiled_rotation,
    query_angles,
)
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import LayerPlan, RowPlan

LANES, MAX_ROWS = compiled_attend.LANES, compiled_attend.MAX_ROWS


@dataclass(frozen=True, slots=True)
class DecodeForm:
    """What all steps of a group have in common."""

    group: KVGroup
    rotation: CompiledRotation
    q_shape: tuple[int, int]
    """Of a token."""
    k_shape: tuple[int, int]
    v_shape: tuple[int, int]
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
        (group.num_heads, group.head_dim),
        (group.num_kv_heads, group.head_dim),
        (group.num_kv_heads, group.value_dim),
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
    """Write a token of each row and attend from it.

    Args:
        plan: of a step; its copies and clears are done.
        q: `[B, H, D]`.
        k: `[B, Hkv, D]`, not rotated.
        v: `[B, Hkv, Dv]`.
        out_dtype: None for that of q.

    Returns:
        out `[B, H, Dv]`, lse float32 `[B, H]`, and the name of the backend. None where the general
        way must do it, or must refuse it; nothing is written then.
    """
    form, attention, rotary = (
        _form_of(plan.group),
        compiled_attend.extension(),
        compiled.extension(),
    )
    if form is None or attention is None or rotary is None:
        return None
    group, pool, dtype, rows = plan.group, plan.pool, plan.dtype, plan.rows
    num_rows = len(rows)
    if pool.shape.dtype is not dtype or not _are_usual(rows):
        return None
    for x, shape in ((q, form.q_shape), (k, form.k_shape), (v, form.v_shape)):
        if x.shape != (num_rows, *shape) or x.dtype is not dtype:
            return None
        if not x.is_cpu or not x.is_contiguous():
            return None
    memory = page_memory(pool)
    if not memory.keys.is_cpu:
        return None
    cos = sin = 0
    if group.rope is not None:
        angles = _angles(plan, group.rope)
        if angles is None or angles.scale is not None:
            return None
        cos, sin = angles.cos.data_ptr(), angles.sin.data_ptr()
    heads, kv_heads = group.num_heads, group.num_kv_heads
    width, value_width, size = group.head_dim, group.value_dim, dtype.itemsize
    layer, page_tokens = plan.layer_in_group, memory.page_tokens
    threads, number = torch.get_num_threads(), compiled.DTYPES[dtype]
    pairs, first, interleaved = form.rotation
    rotate = rotary.rotate
    key_address, value_address = memory.key_address, memory.value_address
    key_page_bytes, value_page_bytes = memory.key_page_bytes, memory.value_page_bytes
    k_token, v_token = kv_heads * width, kv_heads * value_width
    k_source, v_source, key_cos, key_sin = k.data_ptr(), v.data_ptr(), cos, sin
    angle_bytes = 4 * pairs if cos else 0
    of_key = 1, pairs, kv_heads, width, first, number, interleaved, False, threads
    of_value = 0, 0, 1, 0, kv_heads, value_width, 0, number, False, False, threads
    k_strides = width, page_tokens * width, 1
    v_strides = value_width, page_tokens * value_width, 1
    for each in plan.slots.tolist():
        page, slot = divmod(each, page_tokens)
        page += layer
        address = key_address + page * key_page_bytes + slot * width * size
        rotate(key_cos, key_sin, *of_key, k_source, k_token, width, address, *k_strides)
        address = value_address + page * value_page_bytes + slot * value_width * size
        rotate(*of_value, v_source, v_token, value_width, address, *v_strides)
        k_source, v_source = k_source + k_token * size, v_source + v_token * size
        key_cos, key_sin = key_cos + angle_bytes, key_sin + angle_bytes
    rotated = torch.empty_like(q)
    q_address, q_token = rotated.data_ptr(), heads * width
    rotate(
        *(cos, sin, num_rows, pairs, heads, width, first, number, interleaved, False, threads),
        *(q.data_ptr(), q_token, width, q_address, q_token, width, num_rows),
    )
    out_dtype = dtype if out_dtype is None else out_dtype
    out = torch.empty((num_rows, heads, value_width), dtype=out_dtype)
    lse = torch.empty((num_rows, heads))
    out_address, lse_address, total_keys = out.data_ptr(), lse.data_ptr(), 0
    out_row, lse_row, q_row = heads * value_width * out_dtype.itemsize, 4 * heads, q_token * size
    numbers = array("q", (num_rows,))
    for row in rows:
        segment = row.segments[0]
        groups, num_keys = segment.page_groups, segment.num_keys
        numbers.extend(
            (
                *(1, out_address, lse_address, 0, 0, 0, row.num_keys, 1, row.q_index[0]),
                *(q_address, segment.first_slot, num_keys),
                *(segment.first_place, segment.first_index, len(groups)),
            )
        )
        numbers.frombytes(np.add(groups, layer, dtype=np.int64).tobytes())
        total_keys += num_keys
        out_address, lse_address = out_address + out_row, lse_address + lse_row
        q_address += q_row
    sinks = 0
    if group.sinks is not None:
        sinks = sinks_tensor(group.sinks[layer], q.device).data_ptr()
    attention.attend(
        *(numbers.buffer_info()[0], key_address, value_address, key_page_bytes, value_page_bytes),
        *(page_tokens, kv_heads, heads // kv_heads, width, value_width, number),
        *(compiled.DTYPES[out_dtype], *form.bounds, sinks),
        *(threads, total_keys * heads * (width + value_width), number, 0, 0),  # no scales
        *(form.scale, form.softcap),
    )
    return out, lse, compiled_attend.name


def _are_usual(rows: Sequence[RowPlan]) -> bool:
    """Tell whether each row has one token, one query and one segment."""
    for row in rows:
        if row.num_new != 1 or row.num_queries != 1 or row.tail_mask is not None:
            return False
        if len(row.segments) != 1:
            return False
    return True


def _angles(plan: LayerPlan, rope: RopeConfig) -> Angles | None:
    """Return the angles of the tokens of all rows; None if queries have others than their keys."""
    bases, positions = plan.base_positions, plan.q_positions
    assert bases is not None, "the group has a rope"
    assert positions is not None, "the group has a rope"
    shifts = [row.segments[0].shift[0] for row in plan.rows]
    if (positions - bases).tolist() != shifts:
        return None
    return (
        token_angles_at(rope, int(bases[0])) if len(bases) == 1 else query_angles(bases, rope, _CPU)
    )


_CPU = torch.device("cpu")
