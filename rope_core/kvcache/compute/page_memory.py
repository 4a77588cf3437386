"""Where the pages of a pool are in memory, looked up once for many plans."""

from dataclasses import dataclass

from torch import Tensor

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


def page_memory(pool: PagePool) -> PageMemory:
    """Return where the pages of a pool are."""
    keys, values = pool.keys, pool.values
    size = keys.element_size()
    return PageMemory(
        *(keys, values, keys.data_ptr(), values.data_ptr()),
        *(keys.stride(0) * size, values.stride(0) * size, keys.shape[2]),
    )
