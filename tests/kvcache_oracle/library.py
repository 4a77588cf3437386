"""A driver of the library: caches in an arena, planned, run and committed here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rope_core import AttentionConfig, RopeConfig, ShapeError
from rope_core.errors import ConfigError
from rope_core.kvcache import errors
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig, KVGroup
from rope_core.kvcache.run import LayerInput, run_layers, run_moves
from tests.kvcache_oracle.calls import DTYPES, Answer, Call, Refused
from tests.kvcache_oracle.configurations import Configuration, Group, Rope
from tests.kvcache_oracle.sessions import ListService

REFUSALS: dict[type[Exception], tuple[int, str]] = {
    ShapeError: (422, "shape"),
    ConfigError: (422, "config"),
    errors.LengthConflict: (409, "session_conflict"),
    errors.LayersDiffer: (409, "layers_differ"),
    errors.RolledPast: (409, "rolled_past"),
    errors.TooManyTokens: (413, "session_too_long"),
    errors.ArenaFull: (507, "kv_memory"),
}


def library_config(config: Configuration) -> KVConfig:
    groups = tuple(_group(group) for group in config.groups)
    return KVConfig(groups=groups, dtype=DTYPES[config.dtype])


def _group(group: Group) -> KVGroup:
    return KVGroup(
        layers=group.layers,
        num_heads=group.heads,
        num_kv_heads=group.kv_heads,
        head_dim=group.head_dim,
        value_dim=group.value_dim,
        rope=_rope(group.rope, group.head_dim) if group.rope else None,
        attention=AttentionConfig(
            causal=group.causal,
            window=group.window,
            chunk=group.chunk,
            softcap=group.softcap,
            scale=group.scale,
        ),
        sinks=(group.sinks,) * len(group.layers) if group.sinks else None,
        rollback=group.rollback,
    )


def _rope(rope: Rope, head_dim: int) -> RopeConfig:
    members = rope.members()
    return RopeConfig.of(head_dim, **members)


class LibraryDriver:
    """Answers as the service would, without guards, repeats and names."""

    def __init__(self, arena: Arena, backend: str | None = None) -> None:
        self.arena = arena
        self.backend = backend
        self.caches: dict[int, KVCache] = {}

    def call(self, call: Call) -> Answer:
        try:
            return self._call(call)
        except tuple(REFUSALS) as error:
            kind = next(each for each in type(error).__mro__ if each in REFUSALS)
            status, code = REFUSALS[kind]
            raise Refused(status, code, detail=str(error)) from error

    def _call(self, call: Call) -> Answer:
        params = dict(call.params)
        if call.operation == "create":
            config = library_config(params["configuration"])
            cache = KVCache(config, self.arena, params.get("batch", 1), params.get("max_tokens"))
            self.caches[call.new] = cache
            return Answer(self.document(cache))
        if call.operation == "delete":
            self.caches.pop(call.session).close()
            return Answer({})
        cache = self.caches[call.session]
        if call.operation in ("append", "attend", "step"):
            return self._run(cache, call)
        if call.operation == "fork":
            count = params.get("count", 1)
            forks = cache.fork(
                params.get("rows"), params.get("length"), count, strict=params.get("strict", False)
            )
            self.caches |= {call.new + i: fork for i, fork in enumerate(forks)}
            return Answer({"sessions": [self.document(fork) for fork in forks]})
        if call.operation == "compact":
            self._compact(cache, params["max_segments"])
            return Answer({})
        self._structural(cache, call.operation, params)
        return Answer({"length": cache.length, "generation": cache.generation})

    @staticmethod
    def _compact(cache: KVCache, max_segments: int) -> None:
        """Join segments as long as there are too many; uneven layers are left as they are."""
        if any(cache.lengths(layer) != cache.length for layer in range(cache.config.num_layers)):
            return
        while (pending := cache.plan_compaction(max_segments)) is not None:
            run_moves(pending.moves)
            cache.commit(pending)
        if all(group.attention.window is None for group in cache.config.groups):
            for row in cache.rows:
                pairs = zip(row.segments, row.segments[1:], strict=False)
                holes = sum(last.index + last.num_tokens != each.index for last, each in pairs)
                assert len(row.segments) <= max(max_segments, 1 + holes)

    @staticmethod
    def document(cache: KVCache) -> dict[str, Any]:
        return {
            "length": cache.length,
            "lengths": [cache.lengths(layer) for layer in range(cache.config.num_layers)],
            "batch": cache.batch,
            "frozen": False,
            "name": None,
            "labels": [],
        }

    def _structural(self, cache: KVCache, operation: str, params: dict[str, Any]) -> None:
        rows = params.get("rows")
        if operation == "truncate":
            if "drop" in params:
                cache.truncate([length - params["drop"] for length in cache.length])
            else:
                cache.truncate(params["length"])
        elif operation == "select_tail":
            kept = params["kept"]
            if not kept or isinstance(kept[0], int):
                kept = [kept] * cache.batch
            pending = cache.plan_select_tail(params["n"], kept)
            run_moves(pending.moves)
            cache.commit(pending)
        elif operation == "reorder":
            cache.reorder(rows)
        elif operation == "evict":
            start, stop = params.get("start"), params.get("stop")
            if "sinks" in params:
                lengths = cache.length
                start = [min(params["sinks"], length) for length in lengths]
                stop = [max(n - params["recent"], s) for n, s in zip(lengths, start, strict=True)]
            cache.evict(start, stop, rows=rows, close=params.get("close", True))
        elif operation == "shift":
            cache.shift(params["start"], params["stop"], params["delta"], rows=rows)
        elif operation == "attach":
            source = self.caches[params["source"]]
            position = params.get("position")
            cache.attach(source, params["start"], params["stop"], position=position)
        else:
            raise NotImplementedError(operation)

    def _run(self, cache: KVCache, call: Call) -> Answer:
        params, tensors = call.params, dict(call.tensors)
        layers = params.get("layers", [params.get("layer", 0)])
        is_stacked = "layers" in params
        given = tensors["q" if call.operation == "attend" else "k"]
        rows = params.get("rows")
        num_rows = cache.batch if rows is None else len(rows)
        ends = tensors.pop("cu_seqlens", None)
        if ends is None:
            if any(
                tensors[name].shape[int(is_stacked)] != num_rows
                for name in "qkv"
                if name in tensors
            ):
                raise Refused(422, "shape")
            counts = [given.shape[2 if is_stacked else 1]] * num_rows
        else:
            counts = ends.diff().tolist()
        if call.operation == "step" and 0 in counts:
            raise Refused(422, "shape")
        packed = {
            name: self._packed(tensor, is_stacked, ends is not None)
            for name, tensor in tensors.items()
            if name in "qkv"
        }
        self._check_shapes(cache, layers, packed, sum(counts))
        positions, q_index = tensors.get("positions"), tensors.get("q_index")
        if positions is not None and ends is None:
            positions = positions.flatten(-2)
        if q_index is not None:
            q_index = q_index.flatten()
        pending = cache.plan(
            layers,
            num_new=counts if call.operation != "attend" else None,
            num_queries=counts if call.operation != "append" else None,
            rows=rows,
            positions=positions,
            q_index=q_index,
            tail_mask=tensors.get("tail_mask"),
        )
        inputs = [
            LayerInput(
                plan,
                **{name: each[i] for name, each in packed.items()},
                out_dtype=torch.float32 if params.get("out_dtype") else None,
                return_lse=params.get("return_lse", False),
            )
            for i, plan in enumerate(pending.layers)
        ]
        outputs = run_layers(inputs, self.backend)
        cache.commit(pending)
        members: dict[str, Any] = {"generation": cache.generation, "length": cache.length}
        if call.operation != "attend":
            members["length"] = cache.lengths(layers[0])
            members["lengths"] = [cache.lengths(layer) for layer in layers]
        answered = {}
        if call.operation != "append":
            answered["out"] = [each.out for each in outputs]
            if params.get("return_lse"):
                answered["lse"] = [each.lse for each in outputs]
        lead = () if ends is not None else (num_rows, counts[0])
        return Answer(members, self._unpacked(answered, is_stacked, lead))

    @staticmethod
    def _packed(tensor: Tensor, is_stacked: bool, is_packed: bool) -> Tensor:
        """Return `[L', T, heads, width]`."""
        if not is_stacked:
            tensor = tensor[None]
        return tensor if is_packed else tensor.flatten(1, 2)

    @staticmethod
    def _check_shapes(
        cache: KVCache, layers: Sequence[int], packed: dict[str, Tensor], num_tokens: int
    ) -> None:
        """Refuse what the plan does not see: the tensors."""
        group = next((each for each in cache.config.groups if layers[0] in each.layers), None)
        if group is None:
            raise Refused(422, "shape")
        shapes = {
            "q": (group.num_heads, group.head_dim),
            "k": (group.num_kv_heads, group.head_dim),
            "v": (group.num_kv_heads, group.value_dim),
        }
        for name, tensor in packed.items():
            expected = (len(layers), num_tokens, *shapes[name])
            if tensor.shape != expected or tensor.dtype != cache.config.dtype:
                raise Refused(422, "shape")

    @staticmethod
    def _unpacked(
        answered: dict[str, list[Tensor]], is_stacked: bool, lead: tuple[int, ...]
    ) -> dict[str, Tensor]:
        made = {}
        for name, parts in answered.items():
            parts = [each.unflatten(0, lead) if lead else each for each in parts]
            made[name] = torch.stack(parts) if is_stacked else parts[0]
        return made

    def check_state(self, service: ListService) -> None:
        assert {*self.caches} == {*service.sessions}
        for number, cache in self.caches.items():
            expected = service.document(number)
            got = self.document(cache)
            for name in ("length", "lengths", "batch"):
                assert got[name] == expected[name], (number, name, got[name], expected[name])
            generation = service.sessions[number].cache.generation
            assert cache.generation == generation, (number, cache.generation, generation)
        own = sum(cache.own_bytes for cache in self.caches.values())
        shared = sum(cache.shared_bytes for cache in self.caches.values())
        assert own <= self.arena.used_bytes <= own + shared, (own, self.arena.used_bytes, shared)
        reserved = sum(cache.reserved_bytes for cache in self.caches.values())
        assert reserved == self.arena.reserved_bytes, (reserved, self.arena.reserved_bytes)

    def close(self) -> None:
        for cache in self.caches.values():
            cache.close()
        self.caches.clear()


@contextmanager
def library_driver(
    page_tokens: int = 4, backend: str | None = None, num_bytes: int = 2**22
) -> Iterator[LibraryDriver]:
    """Make an arena and a driver; at the end no page and no reservation may be left."""
    arena = Arena(num_bytes, page_tokens=page_tokens, slab_bytes=2**16)
    free = arena.free_bytes
    driver = LibraryDriver(arena, backend)
    yield driver
    driver.close()
    left = (arena.used_bytes, arena.reserved_bytes, free - arena.free_bytes)
    assert left == (0, 0, 0), f"used, reserved, not free: {left}"
