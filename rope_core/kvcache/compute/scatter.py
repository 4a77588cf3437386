"""Write the new keys and values of a plan into its pages, on the CPU."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rope_core.angles import Angles
from rope_core.kvcache.compute.rotation import rotate_into, stored_angles
from rope_core.kvcache.plan import LayerPlan, PageCopy


def copy_page(copy: PageCopy) -> None:
    """Copy a page group: a page of each layer of its group."""
    num_layers = copy.pool.shape.num_layers
    for pages in (copy.pool.keys, copy.pool.values):
        source = pages[copy.source : copy.source + num_layers]
        pages[copy.target : copy.target + num_layers].copy_(source)


def write_tokens(plan: LayerPlan, k: Tensor, v: Tensor) -> None:
    """Write k `[T, Hkv, D]`, rotated, and v `[T, Hkv, Dv]` into the slots of the plan."""
    keys, values, rope = plan.pool.keys, plan.pool.values, plan.group.rope
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    page_tokens = keys.shape[2]
    start = 0
    for row in plan.rows:
        if not row.num_new:
            continue
        angles = None
        if rope is not None:
            assert row.base_positions is not None, "the group has a rope"
            angles = stored_angles(row.base_positions, rope)
        for begin, end, slot in slot_runs(row.slots, page_tokens):
            page, first = divmod(slot, page_tokens)
            tokens, slots = slice(start + begin, start + end), slice(first, first + end - begin)
            # heads first in memory: [m, Hkv, D] as views
            k_out, v_out = (x[page, :, slots].transpose(0, 1) for x in (keys, values))
            v_out.copy_(v[tokens])
            if rope is None or angles is None:
                k_out.copy_(k[tokens])
            else:
                part = angles if end - begin == row.num_new else angles_of(angles, begin, end)
                rotate_into(k_out, k[tokens], part, rope)
        start += row.num_new


def angles_of(angles: Angles, begin: int, end: int) -> Angles:
    """Return the angles of some of the tokens."""
    return angles.map(lambda table: table[begin:end])


def slot_runs(slots: Sequence[int] | Tensor, page_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Yield the first and the last + 1 of the tokens of each page, and the slot of the first.

    The slots of tokens of one page go on by one.
    """
    if isinstance(slots, torch.Tensor):
        slots = slots.tolist()
    begin, count = 0, len(slots)
    while begin < count:
        slot = slots[begin]
        end = min(count, begin + page_tokens - slot % page_tokens)
        while slots[end - 1] != slot + end - 1 - begin:
            end -= 1
        yield begin, end, slot
        begin = end
