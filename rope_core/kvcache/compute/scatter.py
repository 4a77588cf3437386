"""Write the new keys and values of a plan into its pages, one after the other."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rope_core.angles import Angles
from rope_core.kvcache.compute.page_memory import PageMemory, as_tensor
from rope_core.kvcache.compute.quantisation import TokenSlots, quantise
from rope_core.kvcache.compute.rotation import (
    COPY,
    CompiledRotation,
    compiled_rotation,
    rotate_at,
    rotate_into,
    stored_angles,
)
from rope_core.kvcache.plan import LayerPlan, PageCopy
from rope_core.kvcache.pool import PagePool


def clear_page(pool: PagePool, page_group: int) -> None:
    """Set a page group to 0."""
    pool.pages[page_group : page_group + pool.shape.num_layers].zero_()


def copy_page(copy: PageCopy) -> None:
    """Copy a page group: a page of each layer of its group."""
    num_layers = copy.pool.shape.num_layers
    source = copy.pool.pages[copy.source : copy.source + num_layers]
    pages = (copy.target_pool or copy.pool).pages
    pages[copy.target : copy.target + num_layers].copy_(source)


def write_tokens(plan: LayerPlan, memory: PageMemory, k: Tensor, v: Tensor) -> None:
    """Write k `[T, Hkv, D]`, rotated, and v `[T, Hkv, Dv]` into the slots of the plan."""
    rope, page_tokens = plan.group.rope, memory.page_tokens
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    rotation = compiled_rotation(rope) if k.is_cpu else None
    size, head_dim, value_dim = k.element_size(), k.shape[2], v.shape[2]
    key_strides = head_dim, page_tokens * head_dim
    value_strides = value_dim, page_tokens * value_dim
    angles = None
    if rope is not None:
        assert plan.base_positions is not None, "the group has a rope"
        angles = stored_angles(plan.base_positions, rope, k.device)
    if memory.scales is not None:
        write_quantised(plan, memory, k, v, angles, rotation)
        return
    for begin, count, slot in slot_runs(plan.slots.tolist(), page_tokens):
        page, slot = divmod(slot, page_tokens)
        page += plan.layer_in_group
        if rotation is None:
            tokens = slice(begin, begin + count)
            write_page(plan, memory, k[tokens], v[tokens], page, slot, angles, begin)
            continue
        address = memory.key_address + page * memory.key_page_bytes + slot * head_dim * size
        rotate_at(address, key_strides, k, (begin, count), angles, begin, rotation)
        address = memory.value_address + page * memory.value_page_bytes + slot * value_dim * size
        rotate_at(address, value_strides, v, (begin, count), None, 0, COPY)


def write_quantised(
    plan: LayerPlan,
    memory: PageMemory,
    k: Tensor,
    v: Tensor,
    angles: Angles | None,
    rotation: CompiledRotation | None,
) -> None:
    """Write k and v, rotated in float32 and then rounded once, into pages that have scales."""
    k, v = k.float(), v.float()
    if angles is not None and plan.group.rope is not None:
        turned = torch.empty_like(k, memory_format=torch.contiguous_format)
        if rotation is None:
            rotate_into(turned, k, angles, plan.group.rope)
        else:
            strides = turned.stride(0), turned.stride(1)
            rotate_at(turned.data_ptr(), strides, k, (0, len(k)), angles, 0, rotation)
        k = turned
    (k, k_scales), (v, v_scales) = quantise(k), quantise(v)
    slots = as_tensor(plan.slots).to(k.device)
    TokenSlots(memory, slots, plan.layer_in_group).write(k, v, torch.stack((k_scales, v_scales), 1))


def write_page(
    plan: LayerPlan,
    memory: PageMemory,
    k: Tensor,
    v: Tensor,
    page: int,
    slot: int,
    angles: Angles | None,
    first_angle: int,
) -> None:
    """Write k and v into the slots of a page from `slot` on, by operators of torch."""
    slots = slice(slot, slot + len(k))
    # heads first in memory: views [m, Hkv, D]
    k_out, v_out = (x[page, :, slots].transpose(0, 1) for x in (memory.keys, memory.values))
    v_out.copy_(v)
    if angles is None or plan.group.rope is None:
        k_out.copy_(k)
    else:
        part = angles.map(lambda table: table[first_angle : first_angle + len(k)])
        rotate_into(k_out, k, part, plan.group.rope)


def slot_runs(slots: Sequence[int], page_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Yield the first token, the number of tokens and the first slot of each page.

    The slots of tokens of one page go on by one.
    """
    begin, num_slots = 0, len(slots)
    while begin < num_slots:
        slot = slots[begin]
        count = min(num_slots - begin, page_tokens - slot % page_tokens)
        while slots[begin + count - 1] != slot + count - 1:
            count -= 1
        yield begin, count, slot
        begin += count
