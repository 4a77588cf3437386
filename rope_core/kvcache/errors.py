"""Errors of a cache of keys and values. The cache is unchanged after each of them."""

from collections.abc import Sequence

from rope_core.errors import RopeError


class KVCacheError(RopeError):
    """An operation does not fit the state of the cache."""


class LengthConflict(KVCacheError):
    """The operation needs more tokens than there are."""


class LayersDiffer(KVCacheError):
    """The layers have different lengths, and the operation needs one length."""

    def __init__(self, lengths: Sequence[Sequence[int]]) -> None:
        super().__init__("all layers must have one length: append to the shorter ones, or truncate")
        self.lengths = lengths
        """`[L][B]`."""


class RolledPast(KVCacheError):
    """The operation needs tokens that lie behind the window, whose pages have been freed."""


class TooManyTokens(KVCacheError):
    """A row would be longer than `max_tokens`, or a reservation larger than the arena."""


class TooManySegments(KVCacheError):
    """A row would have more segments than a row may have; join segments first."""


class SharedPages(KVCacheError):
    """The operation rewrites pages that other caches refer to as well."""


class ArenaFull(KVCacheError):
    """The arena has too few free pages."""

    def __init__(self, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(f"{wanted_bytes:,} bytes are needed, and {free_bytes:,} are free")
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes
