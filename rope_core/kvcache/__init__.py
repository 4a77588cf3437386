"""Caches of keys and values in pages: append, attend, fork, shift, evict.

A cache has rows, each a sequence of tokens, and layers. Its state is plain numbers on the host: an
operation first makes a `plan`, a device runs the plan (`run`), and `commit` moves the lengths. So
an append is all or nothing, and a cache has no lock.
"""

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig, KVGroup

__all__ = ["Arena", "KVCache", "KVConfig", "KVGroup"]
