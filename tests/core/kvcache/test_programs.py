"""Random programs of all operations, against a list model, with the accounts after each step."""

import random
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rope_core.config import RopeConfig
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.errors import KVCacheError
from tests.core.kvcache.model import PAGE_TOKENS, Memory, Model, check_invariants, config_of

MROPE = RopeConfig(head_dim=12, axes="mrope", axes_parameters=(("mrope_section", (2, 2, 2)),))

CONFIGS = {
    "full": config_of(None),
    "two groups": config_of(None, None, layers=1),
    "window 3": config_of(None, 3, layers=1),
    "window 7": config_of(7, layers=2, rollback=0),
    "chunk": config_of(None, layers=1, chunk=6),
    "three axes": config_of(None, layers=2, rope=MROPE),
}


class Program:
    """Caches with their models, and one random operation after the other."""

    def __init__(self, config: KVConfig, rng: random.Random, num_bytes: int) -> None:
        self.rng = rng
        self.config = config
        self.arena = Arena(num_bytes, page_tokens=PAGE_TOKENS, slab_bytes=1024)
        self.memory = Memory()
        self.numbers = count(1)
        self.models: list[Model] = []

    def create(self) -> None:
        batch = self.rng.randint(1, 3)
        max_tokens = self.rng.choice([None, 40])
        cache = KVCache(self.config, self.arena, batch, max_tokens)
        self.models.append(Model(cache, self.memory, self.numbers))

    def step(self) -> None:
        operations = [
            *[self.append] * 4,
            *[self.token] * 4,
            *[self.evict, self.shift, self.attach, self.compact] * 3,
            *[self.truncate, self.fork, self.reorder, self.select_tail] * 2,
            *(self.create, self.close),
        ]
        operation = self.rng.choice(operations)
        if not self.models:
            operation = self.create
        with suppress(KVCacheError):
            operation()
        self.check()

    def snapshot(self, model: Model) -> object:
        cache = model.cache
        rows = [
            [
                (s.index, s.num_tokens, s.shift, [t.kept.tolist() for t in s.tables])
                for s in row.segments
            ]
            for row in cache.rows
        ]
        return rows, cache.layer_lengths, cache.generation, cache.own_bytes

    def check(self) -> None:
        for model in self.models:
            model.check()
        check_invariants(self.arena, [model.cache for model in self.models])

    def append(self) -> None:
        model = self.rng.choice(self.models)
        group = self.rng.choice(self.config.groups)
        layers = self.rng.choice([[layer] for layer in group.layers] + [[*group.layers]])
        rows = self.rng.sample(range(len(model.rows)), self.rng.randint(1, len(model.rows)))
        counts = [self.rng.randint(0, 6) for _ in rows]
        self.run(model, layers, rows, counts, self.positions(model, layers, rows, counts))

    def token(self) -> None:
        """Append a token to all layers, after those that some layers lack."""
        self.level(self.rng.choice(self.models), 1)

    def any_model(self) -> Model:
        """Return a cache whose layers are level, mostly."""
        model = self.rng.choice(self.models)
        if self.rng.random() < 0.8:
            self.level(model, 0)
        return model

    def level(self, model: Model, num_more: int) -> None:
        most = [len(row.tokens) + num_more for row in model.rows]
        for layer in range(self.config.num_layers):
            counts = [n - row.lengths[layer] for n, row in zip(most, model.rows, strict=True)]
            self.run(model, [layer], [*range(len(counts))], counts, None, may_discard=False)

    def positions(
        self, model: Model, layers: list[int], rows: list[int], counts: list[int]
    ) -> np.ndarray | None:
        axes = self.config.num_axes
        starts = [model.rows[number].lengths[layers[0]] for number in rows]
        ends = [len(model.rows[number].tokens) for number in rows]
        if self.rng.random() < 0.6 or starts != ends:
            return None
        if len({tuple(model.rows[number].lengths[la] for la in layers) for number in rows}) != 1:
            return None
        given = [[self.rng.randint(0, 60) for _ in range(sum(counts))] for _ in range(axes)]
        if self.rng.random() < 0.5:
            first = self.rng.randint(0, 50)
            given = [[*range(first, first + sum(counts))]] * axes
        return np.array(given if axes > 1 else given[0], np.int64).reshape(
            (axes, -1) if axes > 1 else (-1,)
        )

    def run(
        self,
        model: Model,
        layers: list[int],
        rows: list[int],
        counts: list[int],
        positions: np.ndarray | None,
        *,
        may_discard: bool = True,
    ) -> None:
        if len({tuple(row.lengths[layer] for row in model.rows) for layer in layers}) > 1:
            positions = None
        before = self.snapshot(model)
        pending = model.append(layers, counts, rows, positions)
        check_invariants(self.arena, [each.cache for each in self.models])
        if may_discard and self.rng.random() < 0.2:
            model.cache.discard(pending)
            assert self.snapshot(model) == before
        else:
            model.commit(pending)

    def truncate(self) -> None:
        model = self.rng.choice(self.models)
        lengths = [self.rng.randint(max(0, row.length - 5), row.length) for row in model.rows]
        model.cache.truncate(lengths)
        model.truncate(lengths)

    def places(self, model: Model) -> tuple[list[int], int, int]:
        rows = self.rng.sample(range(len(model.rows)), self.rng.randint(1, len(model.rows)))
        shortest = min(model.rows[number].length for number in rows)
        start = self.rng.randint(0, shortest)
        most = shortest if self.rng.random() < 0.3 else min(start + 3, shortest)
        return rows, start, self.rng.randint(start, most)

    def evict(self) -> None:
        model = self.any_model()
        rows, start, stop = self.places(model)
        close = self.rng.random() < 0.7
        model.cache.evict(start, stop, rows=rows, close=close)
        model.evict(rows, start, stop, close=close)

    def shift(self) -> None:
        model = self.any_model()
        rows, start, stop = self.places(model)
        delta = [self.rng.randint(-9, 9) for _ in range(self.config.num_axes)]
        model.cache.shift(start, stop, delta, rows=rows)
        model.shift(rows, start, stop, delta)

    def attach(self) -> None:
        model = self.any_model()
        sources = [
            each
            for each in self.models
            if len(each.rows) in (1, len(model.rows))
            and all(len({*row.lengths}) == 1 for row in each.rows)
        ]
        if not sources:
            return
        source = self.rng.choice(sources)
        shortest = min(row.length for row in source.rows)
        start = self.rng.randint(0, shortest)
        stop = min(self.rng.randint(start, shortest), start + 9)
        model.cache.attach(source.cache, start, stop)
        model.attach(source, start, stop)

    def fork(self) -> None:
        if len(self.models) > 5:
            return
        model = self.rng.choice(self.models)
        num = self.rng.randint(1, 3)
        rows = [self.rng.randrange(len(model.rows)) for _ in range(num)]
        lengths = [model.rows[number].length for number in rows]
        if self.rng.random() < 0.3:
            lengths = [max(0, each - self.rng.randint(0, 5)) for each in lengths]
        caches = model.cache.fork(rows, lengths, self.rng.randint(1, 2))
        self.models += model.fork(rows, lengths, caches)

    def reorder(self) -> None:
        model = self.any_model()
        rows = [self.rng.randrange(len(model.rows)) for _ in range(self.rng.randint(1, 4))]
        model.cache.reorder(rows)
        model.reorder(rows)

    def select_tail(self) -> None:
        model = self.any_model()
        num_tail = min(self.rng.randint(0, 6), *(row.length for row in model.rows))
        kept = [
            sorted(self.rng.sample(range(num_tail), self.rng.randint(0, num_tail)))
            for _ in model.rows
        ]
        pending = model.cache.plan_select_tail(num_tail, kept)
        if self.rng.random() < 0.2:
            model.cache.discard(pending)
            return
        self.memory.run_moves(pending.moves)
        model.cache.commit(pending)
        model.select_tail(num_tail, kept)

    def compact(self) -> None:
        model = self.any_model()
        pending = model.cache.plan_compaction(self.rng.randint(1, 3))
        if pending is None:
            return
        if self.rng.random() < 0.2:
            model.cache.discard(pending)
            return
        self.memory.run_moves(pending.moves)
        model.cache.commit(pending)

    def close(self) -> None:
        model = self.models.pop(self.rng.randrange(len(self.models)))
        model.cache.close()


@pytest.mark.parametrize("name", CONFIGS)
@given(rng=st.randoms(use_true_random=False), tight=st.booleans())
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
def test_random_programs_match_the_list_model(name: str, rng: random.Random, tight: bool) -> None:
    config = CONFIGS[name]
    program = Program(config, rng, 8 * 2**10 if tight else 2**20)
    for _ in range(40):
        program.step()
    for model in program.models:
        model.cache.close()
    check_invariants(program.arena, [])
    assert program.arena.used_bytes == program.arena.reserved_bytes == 0
