"""Export and import of caches, at any moment of random programs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import RolledPast
from rope_core.kvcache.run import LayerInput, run_layers
from rope_core.kvcache.transfer.exporting import Export, export
from rope_core.kvcache.transfer.importing import Import, RowNumbers
from rope_core.kvcache.transfer.snapshot import take_snapshot
from tests.kvcache_oracle.calls import Answer, Call
from tests.kvcache_oracle.judge import CALL_BOUND, check_program
from tests.kvcache_oracle.library import LibraryDriver
from tests.kvcache_oracle.sessions import ListService

NUM_PROGRAMS = int(os.environ.get("SESSIONS_PROGRAMS", "60"))
EVERY = 5
"""A cache is replaced by its import after so many calls."""


def import_of(exported: Export, cache: KVCache, arena: Arena) -> KVCache:
    """Return a cache of what was exported, written in parts of odd length."""
    tensors = {each.name: each for each in exported.tensors}
    rows = [
        RowNumbers(
            positions=tensors[f"positions.{row}"].read(),
            entries=tensors[f"segments.{row}"].read(),
            stored=exported.segments[i],
            start=exported.starts[i],
            length=exported.lengths[0][i],
            num_kept=[tensors[f"k.{layer}.{row}"].shape[1] for layer in exported.layers],
        )
        for i, row in enumerate(exported.rows)
    ]
    made = Import(cache.config, arena, rows, cache.max_tokens)
    for name, tensor in tensors.items():
        if name[0] in "kv":
            layer, row = map(int, name.split(".")[1:])
            vectors = tensor.read().flatten(0, 1)
            for first in range(0, len(vectors), 7):
                part = vectors[first : first + 7]
                made.write(layer, row, name[0] == "k", tensor.shape[1], first, part)
    return made.cache


def answers(cache: KVCache, layer: int) -> torch.Tensor | None:
    """Return what the last tokens of all rows attend to; None if pages are gone."""
    group = cache.config.groups[cache.group_of[layer][0]]
    counts = [min(3, length) for length in cache.lengths(layer)]
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(counts), group.num_heads, group.head_dim, generator=generator)
    try:
        pending = cache.plan([layer], num_queries=counts)
    except RolledPast:
        return None
    (output,) = run_layers([LayerInput(pending.layers[0], q.to(cache.config.dtype))])
    cache.commit(pending)
    return output.out


class TransferDriver(LibraryDriver):
    """Replaces caches by their imports."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.num_calls = self.num_imports = 0

    def call(self, call: Call) -> Answer:
        answer = super().call(call)
        self.num_calls += 1
        if self.num_calls % EVERY == 0:
            for number, cache in self.caches.items():
                if all(each == cache.length for each in cache.layer_lengths):
                    self.caches[number] = self._transferred(cache)
        return answer

    def _transferred(self, cache: KVCache) -> KVCache:
        snapshot = take_snapshot(cache)
        copy = import_of(export(snapshot), cache, self.arena)
        snapshot.close()
        for layer in range(cache.config.num_layers):
            before, after = answers(cache, layer), answers(copy, layer)
            assert (before is None) == (after is None)
            if before is not None and after is not None:
                assert torch.equal(before.nan_to_num(7), after.nan_to_num(7))
        copy.generation = cache.generation
        cache.close()
        self.num_imports += 1
        return copy

    def check_state(self, service: ListService) -> None:
        super().check_state(service)
        for number, cache in self.caches.items():
            check_forms(cache, service, number)


def check_forms(cache: KVCache, service: ListService, number: int) -> None:
    """Compare the forms `raw` and `positioned` with the lists."""
    rows, config = service.sessions[number].cache.rows, service.sessions[number].cache.config
    for form in ("raw", "positioned"):
        exported = export(cache, form)
        tensors = {each.name: each for each in exported.tensors}
        for row, start in zip(exported.rows, exported.starts, strict=True):
            tokens = rows[row][: cache.length[row]]
            positions = np.array([token.position for token in tokens[start:]], np.int64)
            got = tensors[f"positions.{row}"].read().reshape(config.num_axes, -1)
            assert got.T.tolist() == positions.reshape(-1, config.num_axes).tolist()
            for layer in exported.layers:
                k, v = (tensors[f"{name}.{layer}.{row}"].read() for name in "kv")
                kept = tokens[len(tokens) - k.shape[1] :]
                if kept:
                    group = config.group(layer)
                    expected = np.stack([token.stored[layer][0] for token in kept])
                    if form == "positioned" and group.rope is not None:
                        expected = group.rope.rotate(expected, positions[-len(kept) :])
                    check_near(k, expected, config.dtype)
                    values = np.stack([token.stored[layer][1] for token in kept])
                    assert torch.equal(v.double(), torch.from_numpy(values).transpose(0, 1))


def check_near(k: torch.Tensor, expected: np.ndarray, dtype: str) -> None:
    difference = k.double() - torch.from_numpy(expected).transpose(0, 1)
    assert difference.abs().max() <= 2 * CALL_BOUND[dtype] * max(1, abs(expected).max())


@contextmanager
def transfer_driver(page_tokens: int, made: list[TransferDriver]) -> Iterator[TransferDriver]:
    arena = Arena(2**22, page_tokens=page_tokens, slab_bytes=2**16)
    free = arena.free_bytes
    driver = TransferDriver(arena)
    made.append(driver)
    yield driver
    driver.close()
    assert (arena.used_bytes, arena.reserved_bytes, free - arena.free_bytes) == (0, 0, 0)


@pytest.mark.parametrize("part", range(6))
def test_caches_go_on_as_before_when_they_are_exported_and_imported(part: int) -> None:
    made: list[TransferDriver] = []
    for seed in range(part, NUM_PROGRAMS, 6):
        drivers = partial(transfer_driver, (4, 4, 4, 1, 16, 64)[seed % 6], made)
        check_program(seed, drivers, is_wire=False)
    assert sum(driver.num_imports for driver in made) > len(made)
