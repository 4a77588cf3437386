"""A cache as a list of tokens: rows, lengths, positions, indices. It knows no pages.

Whether a page behind a window has been freed is the product's choice within limits. So tokens that
may be gone are marked, and where one is needed, a refusal that was observed is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.kvcache_oracle.attention import attend, visible
from tests.kvcache_oracle.calls import Refused
from tests.kvcache_oracle.configurations import Array, Configuration, Group

Position = tuple[int, ...]


@dataclass(eq=False)
class Token:
    position: Position
    index: int
    stored: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    """Raw k `[Hkv, D]` and v `[Hkv, Dv]` of each layer that has the token."""
    maybe_gone: set[Group] = field(default_factory=set)
    """Windowed groups that may have freed its page."""

    def copy(self) -> "Token":
        return Token(self.position, self.index, dict(self.stored), set(self.maybe_gone))


Row = list[Token]


def layer_length(row: Row, layer: int) -> int:
    return sum(layer in token.stored for token in row)


@dataclass
class ListCache:
    config: Configuration
    max_tokens: int | None
    rows: list[Row]
    generation: int = 0
    observed: str = ""
    """Code that the product answered the call with, or nothing."""

    @property
    def layers(self) -> range:
        return range(self.config.num_layers)

    @property
    def length(self) -> list[int]:
        return [min(layer_length(row, layer) for layer in self.layers) for row in self.rows]

    def lengths(self, layer: int) -> list[int]:
        return [layer_length(row, layer) for row in self.rows]

    def copied(self) -> list[Row]:
        return [[token.copy() for token in row] for row in self.rows]

    def check_level(self) -> None:
        if any(self.lengths(layer) != self.length for layer in self.layers):
            raise Refused(409, "layers_differ")

    @property
    def is_level(self) -> bool:
        return all(self.lengths(layer) == self.length for layer in self.layers)

    # next numbers

    def next_numbers(self, row: Row) -> tuple[Position, int]:
        """Return position and index of the token behind a row."""
        if not row:
            return (0,) * self.config.num_axes, 0
        return (max(row[-1].position) + 1,) * self.config.num_axes, row[-1].index + 1

    # append

    def append(
        self,
        layer: int,
        rows: Sequence[int],
        new: Sequence[tuple[Array, Array]],
        positions: Sequence[Sequence[Position]] | None,
    ) -> None:
        """Append k `[n, Hkv, D]` and v of each of `rows` to a layer."""
        changed = self.copied()
        for i, (number, (k, v)) in enumerate(zip(rows, new, strict=True)):
            row, start = changed[number], layer_length(changed[number], layer)
            for j in range(len(k)):
                given = positions[i][j] if positions is not None else None
                if start + j < len(row):
                    token = row[start + j]
                    if given is not None and given != token.position:
                        raise Refused(422, "shape")
                else:
                    position, index = self.next_numbers(row)
                    token = Token(position if given is None else given, index)
                    row.append(token)
                token.stored[layer] = (k[j], v[j])
            if self.max_tokens is not None and len(k) and start + len(k) > self.max_tokens:
                raise Refused(413, "session_too_long")
        self.rows = changed
        self.mark_gone()

    def mark_gone(self) -> None:
        """Mark what no query of the last `rollback` tokens sees."""
        for group in self.config.groups:
            if group.window is None:
                continue
            for row, length in zip(self.rows, self.length, strict=True):
                if not length:
                    continue
                oldest = row[max(length - max(group.rollback, 1), 0)].index
                for token in row[:length]:
                    if token.index <= oldest - group.window:
                        token.maybe_gone.add(group)

    def roll(self, is_possible: bool) -> None:
        if is_possible and self.observed == "rolled_past":
            raise Refused(409, "rolled_past")

    # attend

    def attend(
        self,
        layer: int,
        row_number: int,
        q: Array,
        positions: Sequence[Position] | None,
        q_index: Sequence[int] | None,
        tail_mask: Array | None,
    ) -> tuple[Array, Array]:
        """Return out and lse of the queries `[n, H, D]` of a row."""
        group = self.config.group(layer)
        length = layer_length(self.rows[row_number], layer)
        keys = self.rows[row_number][:length]
        if q_index is None:
            if len(q) > length:
                raise Refused(422, "shape")
            last = keys[length - len(q) :]
            q_index = [token.index for token in last]
            if positions is None:
                positions = [token.position for token in last]
        elif positions is None:
            if group.rope:
                raise Refused(422)
            positions = [(0,) * self.config.num_axes] * len(q_index)
        k_index = np.array([token.index for token in keys], dtype=np.int64)
        seen = visible(group, np.array(q_index, dtype=np.int64), k_index)
        needed = seen.any(axis=0)
        self.roll(any(needed[i] and group in token.maybe_gone for i, token in enumerate(keys)))
        if tail_mask is not None:
            num_tail = tail_mask.shape[-1]
            if num_tail > length:
                raise Refused(422, "shape")
            seen[:, length - num_tail :] &= tail_mask
        stored = [token.stored[layer] for token in keys]
        k = np.array([k for k, _ in stored]).reshape(-1, group.kv_heads, group.head_dim)
        v = np.array([v for _, v in stored]).reshape(-1, group.kv_heads, group.value_dim)
        axes = self.config.num_axes
        return attend(
            group,
            q,
            np.array(positions, dtype=np.float64).reshape(-1, axes),
            k,
            np.array([token.position for token in keys], dtype=np.float64).reshape(-1, axes),
            v,
            seen,
        )

    # operations on all layers

    def _needs_gone(self, row: Row, length: int) -> bool:
        """Whether the last query of a row cut to `length` may see what may be gone."""
        if not length:
            return False
        last = row[length - 1].index
        return any(
            token.index > last - (group.window or 0)
            for token in row[:length]
            for group in token.maybe_gone
        )

    def truncate(self, lengths: Sequence[int]) -> None:
        if any(new > old for new, old in zip(lengths, self.length, strict=True)):
            raise Refused(409, "session_conflict")
        self.roll(any(self._needs_gone(*each) for each in zip(self.rows, lengths, strict=True)))
        self.rows = [row[:length] for row, length in zip(self.copied(), lengths, strict=True)]
        self.generation += 1

    def select_tail(self, num_tail: int, kept: Sequence[Sequence[int]]) -> None:
        if any(num_tail > length for length in self.length):
            raise Refused(409, "session_conflict", also=("layers_differ",))
        self.check_level()
        changed = self.copied()
        self.roll(any(token.maybe_gone for row in self.rows for token in row))
        for row, offsets in zip(changed, kept, strict=True):
            first = len(row) - num_tail
            tail = row[first:]
            del row[first:]
            for i, offset in enumerate(offsets):
                tail[offset].index = tail[0].index + i
                row.append(tail[offset])
        self.rows = changed
        self.generation += 1

    def fork(self, rows: Sequence[int], lengths: Sequence[int] | None, strict: bool) -> "ListCache":
        """Return a cache with the first tokens of `rows`."""
        if strict:
            self.check_level()
        shortest = [self.length[row] for row in rows]
        if lengths is None:
            lengths = shortest
        if any(new > old for new, old in zip(lengths, shortest, strict=True)):
            raise Refused(409, "session_conflict")
        cut = [*zip(rows, lengths, strict=True)]
        self.roll(any(self._needs_gone(self.rows[row], length) for row, length in cut))
        copied = [[token.copy() for token in self.rows[row][:length]] for row, length in cut]
        return ListCache(self.config, self.max_tokens, copied)

    def reorder(self, rows: Sequence[int]) -> None:
        self.check_level()
        self.rows = [[token.copy() for token in self.rows[row]] for row in rows]
        self.generation += 1

    def check_places(self, rows: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> None:
        for row, low, high in zip(rows, start, stop, strict=True):
            if not 0 <= low <= high <= self.length[row]:
                raise Refused(422, also=("layers_differ",))

    def evict(
        self, rows: Sequence[int], start: Sequence[int], stop: Sequence[int], close: bool
    ) -> None:
        self.check_places(rows, start, stop)
        self.check_level()
        changed = self.copied()
        for number, low, high in zip(rows, start, stop, strict=True):
            row = changed[number]
            kept = row[:low] + row[high:]
            self.roll(high > low and any(token.maybe_gone for token in kept))
            if close and low < high < len(row):
                moved = [b - a for a, b in zip(row[low].position, row[high].position, strict=True)]
                for token in row[high:]:
                    token.index -= high - low
                    token.position = tuple(
                        p - m for p, m in zip(token.position, moved, strict=True)
                    )
            changed[number] = kept
        self.rows = changed
        self.generation += 1
        self.mark_gone()

    def shift(
        self,
        rows: Sequence[int],
        start: Sequence[int],
        stop: Sequence[int],
        delta: Sequence[int],
    ) -> None:
        self.check_places(rows, start, stop)
        self.check_level()
        for number, low, high in zip(rows, start, stop, strict=True):
            for token in self.rows[number][low:high]:
                token.position = tuple(p + d for p, d in zip(token.position, delta, strict=True))
        self.generation += 1

    def attach(self, source: "ListCache", start: int, stop: int, position: Position | None) -> None:
        if source.config != self.config:
            raise Refused(422)
        if len(source.rows) not in (1, len(self.rows)):
            raise Refused(422)
        if any(stop > length for length in source.length):
            raise Refused(422, also=("layers_differ",))
        self.check_level()
        taken = [[token.copy() for token in row[start:stop]] for row in source.rows]
        self.roll(any(token.maybe_gone for row in source.rows for token in row[:stop]))
        changed = self.copied()
        for number, row in enumerate(changed):
            first, index = self.next_numbers(row)
            first = first if position is None else position
            for i, token in enumerate(taken[number if len(taken) > 1 else 0]):
                given = token.copy()
                base = taken[number if len(taken) > 1 else 0][0].position
                given.position = tuple(
                    p + t - b for p, t, b in zip(first, token.position, base, strict=True)
                )
                given.index = index + i
                given.stored = {each: given.stored[each] for each in self.layers}
                row.append(given)
            if self.max_tokens is not None and stop > start and len(row) > self.max_tokens:
                raise Refused(413, "session_too_long")
        self.rows = changed
        self.generation += 1
        self.mark_gone()
