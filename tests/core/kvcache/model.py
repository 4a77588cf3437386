"""A list model of a cache: what every slot holds, and what a row must show."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from rope_core.config import AttentionConfig, RopeConfig
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache, Pending
from rope_core.kvcache.config import KVConfig, KVGroup
from rope_core.kvcache.plan import LayerPlan, MovePlan, RowPlan

PAGE_TOKENS = 4


def config_of(
    *windows: int | None,
    layers: int = 2,
    chunk: int | None = None,
    rollback: int = 2,
    rope: RopeConfig | None = None,
) -> KVConfig:
    """Return a configuration with a group of `layers` layers for each window."""
    groups = tuple(
        KVGroup(
            layers=tuple(range(number * layers, (number + 1) * layers)),
            num_heads=2,
            num_kv_heads=1,
            head_dim=2 if rope is None else rope.head_dim,
            value_dim=2,
            rope=rope or RopeConfig.of(2),
            attention=AttentionConfig(window=window, chunk=chunk),
            rollback=rollback,
        )
        for number, window in enumerate(windows)
    )
    return KVConfig(groups=groups, dtype=torch.float32)


@dataclass(frozen=True)
class Token:
    """A token of a row, as the model knows it."""

    number: int
    position: tuple[int, ...]
    index: int


@dataclass
class ModelRow:
    tokens: list[Token] = field(default_factory=list)
    """Of the longest layer."""
    lengths: list[int] = field(default_factory=list)
    """Of each layer."""

    def copy(self) -> "ModelRow":
        return ModelRow([*self.tokens], [*self.lengths])

    @property
    def length(self) -> int:
        return min(self.lengths)

    def next_position(self, num_axes: int) -> tuple[int, ...]:
        last = max(self.tokens[-1].position) + 1 if self.tokens else 0
        return (last,) * num_axes

    def next_index(self) -> int:
        return self.tokens[-1].index + 1 if self.tokens else 0


class Memory:
    """What the slots of an arena hold: the number and the base position of a token."""

    def __init__(self) -> None:
        self.slots: dict[tuple[Any, int, int], tuple[int, tuple[int, ...]]] = {}

    def copy_page(self, pool: Any, source: int, target: int) -> None:
        for layer in range(pool.shape.num_layers):
            for slot in range(PAGE_TOKENS):
                key = (pool, layer, source * PAGE_TOKENS + slot)
                to = (pool, layer, target * PAGE_TOKENS + slot)
                self.slots.pop(to, None)
                if key in self.slots:
                    self.slots[to] = self.slots[key]

    def run_layers(self, plans: Sequence[LayerPlan], tokens: Sequence[Sequence[int]]) -> None:
        """Copy pages, and then write the tokens of each plan, `[plans][T]`."""
        for plan in plans:
            for copy in plan.copies:
                self.copy_page(copy.pool, copy.source, copy.target)
        for plan, numbers in zip(plans, tokens, strict=True):
            assert len(plan.slots) == len(numbers)
            assert len({*plan.slots.tolist()}) == len(numbers), "a slot is written twice"
            bases = np.atleast_2d(plan.base_positions).T.tolist()
            for slot, number, base in zip(plan.slots.tolist(), numbers, bases, strict=True):
                assert plan.pool.references[slot // PAGE_TOKENS] > 0
                key = (plan.pool, plan.layer_in_group, slot)
                self.slots[key] = (number, tuple(base))

    def run_moves(self, plan: MovePlan) -> None:
        for copy in plan.copies:
            self.copy_page(copy.pool, copy.source, copy.target)
        writes = {}
        for move in plan.moves:
            pool = move.pool
            delta = np.zeros((len(move.sources), 1), np.int64)
            if move.delta is not None:
                delta = np.atleast_2d(move.delta).T
            for source, target, each in zip(
                move.sources.tolist(), move.targets.tolist(), delta.tolist(), strict=True
            ):
                for layer in range(pool.shape.num_layers):
                    number, base = self.slots[pool, layer, source]
                    moved = tuple(a + b for a, b in zip(base, each * len(base), strict=False))
                    assert (pool, layer, target) not in writes
                    writes[pool, layer, target] = (number, moved)
        self.slots.update(writes)


class Model:
    """A cache beside its model."""

    def __init__(self, cache: KVCache, memory: Memory, numbers: "count[int]") -> None:
        self.cache = cache
        self.memory = memory
        self.numbers = numbers
        num_layers = cache.config.num_layers
        self.rows = [ModelRow([], [0] * num_layers) for _ in range(cache.batch)]

    @property
    def num_axes(self) -> int:
        return self.cache.config.num_axes

    def append(
        self,
        layers: Sequence[int],
        counts: Sequence[int],
        rows: Sequence[int],
        positions: np.ndarray | None = None,
    ) -> Pending:
        """Plan and run an append; the caller commits it in the cache and the model."""
        given = None if positions is None else torch.from_numpy(positions)
        pending = self.cache.plan(
            layers, num_new=counts, num_queries=counts, rows=rows, positions=given
        )
        self.pending = [row.copy() for row in self.rows]
        tokens = []
        for layer in layers:
            written = []
            start = 0
            for number, num_new in zip(rows, counts, strict=True):
                row = self.pending[number]
                for i in range(start, start + num_new):
                    place = row.lengths[layer]
                    if place == len(row.tokens):
                        position = row.next_position(self.num_axes)
                        if positions is not None:
                            position = tuple(np.atleast_2d(positions)[:, i].tolist())
                            position *= self.num_axes // len(position)
                        token = Token(next(self.numbers), position, row.next_index())
                        row.tokens.append(token)
                    written.append(row.tokens[place].number)
                    row.lengths[layer] += 1
                start += num_new
            tokens.append(written)
        self.memory.run_layers(pending.layers, tokens)
        for plan in pending.layers:
            self.check_plan(plan, rows, self.pending)
        return pending

    def commit(self, pending: Pending) -> None:
        self.cache.commit(pending)
        self.rows = self.pending

    # what the cache shows

    def check_plan(
        self, plan: LayerPlan, rows: Sequence[int], model_rows: Sequence[ModelRow]
    ) -> None:
        """Check the keys of a plan whose queries are the last tokens of each row."""
        q_start = 0
        for row_plan, number in zip(plan.rows, rows, strict=True):
            row = model_rows[number]
            length = row.lengths[plan.layer]
            assert row_plan.num_keys == length
            queries = row.tokens[length - row_plan.num_queries : length]
            assert [*row_plan.q_index] == [token.index for token in queries]
            shown = np.atleast_2d(plan.q_positions)[:, q_start : q_start + len(queries)]
            assert [tuple(each) for each in shown.T.tolist()] == [
                token.position for token in queries
            ]
            q_start += len(queries)
            self.check_keys(plan, row_plan, row.tokens[:length])

    def check_keys(self, plan: LayerPlan, row_plan: RowPlan, tokens: list[Token]) -> None:
        seen = set()
        for segment in row_plan.segments:
            assert 0 <= segment.first_slot < PAGE_TOKENS
            assert segment.num_keys > 0
            for j in range(segment.num_keys):
                token = tokens[segment.first_place + j]
                assert segment.first_index + j == token.index
                page, slot = divmod(segment.first_slot + j, PAGE_TOKENS)
                at = int(segment.page_groups[page]) * PAGE_TOKENS + slot
                number, base = self.memory.slots[plan.pool, plan.layer_in_group, at]
                assert number == token.number
                assert tuple(np.add(base, segment.shift).tolist()) == token.position
                seen.add(segment.first_place + j)
        for index in row_plan.q_index:
            first = plan.group.first_visible(index)
            for place, token in enumerate(tokens):
                assert place in seen or token.index < first or token.index > index

    def check(self) -> None:
        """Check lengths, numbers, and that each layer finds its tokens."""
        cache = self.cache
        assert cache.length == [row.length for row in self.rows]
        for layer in range(cache.config.num_layers):
            assert cache.lengths(layer) == [row.lengths[layer] for row in self.rows]
            rows = [i for i, row in enumerate(self.rows) if row.lengths[layer]]
            if rows:
                pending = cache.plan([layer], num_queries=[1] * len(rows), rows=rows)
                self.check_plan(pending.layers[0], rows, self.rows)
                cache.commit(pending)
        for row, model_row in zip(cache.rows, self.rows, strict=True):
            shown = row.positions(0, row.num_tokens).T.tolist()
            assert [tuple(each) for each in shown] == [t.position for t in model_row.tokens]
            assert [*row.indices(0, row.num_tokens)] == [t.index for t in model_row.tokens]

    # operations of the model

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, length in zip(self.rows, lengths, strict=True):
            row.tokens = row.tokens[:length]
            row.lengths = [length] * len(row.lengths)

    def evict(self, rows: Sequence[int], start: int, stop: int, *, close: bool) -> None:
        for number in rows:
            row = self.rows[number]
            tokens = row.tokens
            later = tokens[stop:]
            if close and later:
                zipped = zip(tokens[start].position, tokens[stop].position, strict=True)
                delta = [first - second for first, second in zipped]
                later = [_moved(token, start - stop, delta) for token in later]
            row.tokens = tokens[:start] + later
            row.lengths = [len(row.tokens)] * len(row.lengths)

    def shift(self, rows: Sequence[int], start: int, stop: int, delta: Sequence[int]) -> None:
        for number in rows:
            tokens = self.rows[number].tokens
            tokens[start:stop] = [_moved(token, 0, delta) for token in tokens[start:stop]]

    def reorder(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[number].copy() for number in rows]

    def attach(self, source: "Model", start: int, stop: int) -> None:
        origins = [row.copy() for row in source.rows]
        for number, row in enumerate(self.rows):
            origin = origins[number if len(origins) > 1 else 0]
            attached = origin.tokens[start:stop]
            if not attached:
                continue
            first = row.next_position(self.num_axes)
            delta = np.subtract(first, attached[0].position).tolist()
            for token in attached:
                moved = _moved(token, 0, delta)
                row.tokens.append(replace(moved, index=row.next_index()))
            row.lengths = [len(row.tokens)] * len(row.lengths)

    def select_tail(self, num_tail: int, kept: Sequence[Sequence[int]]) -> None:
        for row, offsets in zip(self.rows, kept, strict=True):
            cut = len(row.tokens) - num_tail
            tail = row.tokens[cut:]
            row.tokens = row.tokens[:cut]
            for i, offset in enumerate(offsets):
                row.tokens.append(replace(tail[offset], index=tail[0].index + i))
            row.lengths = [len(row.tokens)] * len(row.lengths)

    def fork(self, rows: Sequence[int], lengths: Sequence[int], caches: list[KVCache]) -> list:
        models = []
        for cache in caches:
            model = Model(cache, self.memory, self.numbers)
            model.rows = [self.rows[number].copy() for number in rows]
            model.truncate(lengths)
            models.append(model)
        return models


def _moved(token: Token, index_delta: int, delta: Sequence[int]) -> Token:
    position = tuple(old + each for old, each in zip(token.position, delta, strict=True))
    return Token(token.number, position, token.index + index_delta)


def check_invariants(arena: Arena, caches: Sequence[KVCache]) -> None:
    """Check references, used and reserved bytes of an arena whose caches are all given."""
    assert sum(cache.reserved_bytes for cache in caches) == arena.reserved_bytes
    assert 0 <= arena.used_bytes <= arena.reserved_bytes <= arena.num_bytes
    paid: dict[Any, int] = {}
    references = {pool: np.zeros_like(pool.references) for pool in arena.pools}
    for cache in caches:
        holdings = cache.holdings
        held_bytes = 0
        for group, reservation in enumerate(holdings.reservations):
            pool = reservation.pool
            assert reservation.reserved >= reservation.paid >= 0
            np.add.at(references[pool], holdings.held_with_repeats(group), 1)
            held = holdings.held(group)
            assert reservation.paid == (pool.payers[held] == holdings.number).sum()
            paid[pool] = paid.get(pool, 0) + reservation.paid
            held_bytes += len(held) * pool.shape.group_bytes
        assert cache.own_bytes + cache.shared_bytes == held_bytes
    for pool in arena.pools:
        assert (pool.references == references[pool]).all()
        assert pool.num_used == (pool.references > 0).sum() == paid.get(pool, 0)
        assert pool.num_reserved >= pool.num_used
