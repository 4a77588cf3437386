"""Where the pages of a pool are in memory, looked up once."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rope_core.kvcache.plan import IntArray
from rope_core.kvcache.pool import PagePool


@dataclass(slots=True)
class PageMemory:
    """The pages of a pool: `[pages, Hkv, P, D]`, heads first and contiguous within a page."""

    keys: Tensor
    values: Tensor
    key_address: int
    value_address: int
    key_page_bytes: int
    """From page to page."""

    value_page_bytes: int
    page_tokens: int
    scales: Tensor | None
    """float32 `[pages, 2, Hkv, P]` of keys and of values, where elements have 8 bits."""


_memories: WeakKeyDictionary[PagePool, PageMemory] = WeakKeyDictionary()


def page_memory(pool: PagePool) -> PageMemory:
    """Return where the pages of a pool are."""
    memory = _memories.get(pool)
    if memory is None:
        keys, values = pool.keys, pool.values
        size = keys.element_size()
        memory = _memories[pool] = PageMemory(
            *(keys, values, keys.data_ptr(), values.data_ptr()),
            *(keys.stride(0) * size, values.stride(0) * size, keys.shape[2]),
            pool.scales if pool.shape.has_scales else None,
        )
    return memory


def as_tensor(numbers: IntArray) -> Tensor:
    """Return numbers of a plan as a tensor on the CPU."""
    return torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy())
