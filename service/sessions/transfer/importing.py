"""Import: the bytes of an export fill the pages of a new cache as they arrive."""

import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.transfer.importing import Import, RowNumbers
from service.errors import BadMessage
from service.sessions.transfer.manifest import HeadsEntry, Manifest
from service.wire.elements import view_as_tensor


class ImportedBody:
    """Receives the data of an import piece by piece.

    First `take_numbers` until the positions and the segments are there; then `make_cache`; then
    `write` until the end; then `finish`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._numbers = bytearray()
        self._import: Import | None = None
        self._rest = bytearray()
        """Bytes of a vector that is not complete."""
        self._next = 0
        """Number of the tensor that is being written."""
        self._num_vectors = 0
        """Vectors of it that have been written."""

    @property
    def has_numbers(self) -> bool:
        """Whether all positions and segments are there."""
        return len(self._numbers) == self.manifest.numbers_bytes

    def take_numbers(self, data: memoryview) -> memoryview:
        """Take bytes of positions and segments; return the bytes behind them."""
        missing = self.manifest.numbers_bytes - len(self._numbers)
        self._numbers += data[:missing]
        return data[missing:]

    def rows(self) -> list[RowNumbers]:
        """Return the numbers of the rows."""
        manifest = self.manifest
        tensors = {
            entry.name: view_as_tensor(self._numbers, entry.dtype, entry.shape, entry.offset)
            for entry in manifest.numbers
        }
        return [
            RowNumbers(
                positions=tensors[f"positions.{row}"],
                entries=tensors[f"segments.{row}"],
                stored=None if manifest.stored_segments is None else manifest.stored_segments[row],
                start=manifest.starts[row],
                length=length,
                num_kept=manifest.num_kept[row],
            )
            for row, length in enumerate(manifest.lengths)
        ]

    def make_cache(self, rows: list[RowNumbers], arena: Arena, owner: object) -> KVCache:
        """Return the cache with all its pages, not filled yet. Raises as `Import`."""
        config = self.manifest.configuration.config
        self._import = Import(config, arena, rows, self.manifest.max_tokens, owner=owner)
        return self._import.cache

    def write(self, data: bytes) -> None:
        """Write bytes of k and v into the pages; for a thread.

        Raises:
            BadMessage: there are more than the header has described.
        """
        made = self._import
        assert made is not None, "make_cache comes first"
        made.clear()
        block = memoryview(bytes(self._rest) + data if self._rest else data)
        while len(block):
            heads = self._current()
            if heads is None:
                raise BadMessage(f"{len(block)} trailing bytes after the tensors of the header")
            token_bytes = heads.width * heads.entry.dtype.itemsize
            total = heads.entry.num_bytes // token_bytes
            num = min(len(block) // token_bytes, total - self._num_vectors)
            if not num:
                break
            part = bytearray(block[: num * token_bytes])
            vectors = torch.frombuffer(part, dtype=heads.entry.dtype).view(num, heads.width)
            made.write(
                *(heads.layer, heads.row, heads.is_keys, heads.num_kept),
                *(self._num_vectors, vectors),
            )
            self._num_vectors += num
            block = block[num * token_bytes :]
        self._rest = bytearray(block)

    def finish(self) -> None:
        """Check that all bytes have come. Raises BadMessage."""
        heads = self._current()
        if not self.has_numbers or heads is not None or self._rest:
            raise BadMessage("the body ends before the tensors of the header")

    def _current(self) -> HeadsEntry | None:
        """Return the tensor that the next bytes belong to; None behind the last one."""
        heads = self.manifest.heads
        while self._next < len(heads):
            entry = heads[self._next]
            if self._num_vectors * entry.width * entry.entry.dtype.itemsize < entry.entry.num_bytes:
                return entry
            self._next += 1
            self._num_vectors = 0
        return None
