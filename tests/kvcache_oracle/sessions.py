"""Sessions over list caches: guards, repeats, op_ids, frozen sessions, names, documents."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.kvcache_oracle.cache import ListCache
from tests.kvcache_oracle.calls import DTYPES, Answer, Call, Refused
from tests.kvcache_oracle.configurations import Configuration
from tests.kvcache_oracle.inputs import LayerInputs

MUTATIONS = ("append", "step", "truncate", "select_tail", "evict", "shift", "reorder", "attach")
KEPT_OPERATIONS = 16
"""Answers that a session keeps by op_id."""


@dataclass
class ListSession:
    cache: ListCache
    name: str | None = None
    labels: list[str] = field(default_factory=list)
    is_frozen: bool = False
    digests: dict[tuple[int, int], tuple[bytes, ...]] = field(default_factory=dict)
    """Bytes of k, v and positions of the last append, by layer and row."""
    operations: dict[str, tuple[str, Answer]] = field(default_factory=dict)
    """Body and answer of the last operations, by op_id."""


class ListService:
    """All sessions of a tenant. `observed` is the code that the product has answered with."""

    def __init__(self) -> None:
        self.sessions: dict[int, ListSession] = {}
        self.ended: set[int] = set()
        self.num_repeats = 0

    def call(self, call: Call, observed: str = "") -> Answer:
        """Return the answer to a call. Raises Refused: nothing has changed."""
        if call.operation == "create":
            return self._create(call)
        if call.operation == "delete" and call.session in self.sessions | dict.fromkeys(self.ended):
            self.sessions.pop(call.session, None)
            self.ended.add(call.session)
            return Answer({})
        if call.session in self.ended:
            raise Refused(410, "session_gone", reason="deleted")
        session = self.sessions[call.session]
        if session.is_frozen and call.operation in MUTATIONS:
            raise Refused(423, "frozen")
        session.cache.observed = observed
        operation: Callable[[ListSession, Call], Answer] = getattr(self, f"_{call.operation}")
        if call.operation in ("append", "step"):
            return operation(session, call)
        op_id = call.params.get("op_id")
        if op_id is None:
            return operation(session, call)
        body = json.dumps([call.operation, call.params], sort_keys=True)
        if op_id in session.operations:
            known, answer = session.operations[op_id]
            if known != body:
                raise Refused(422)
            self.num_repeats += 1
            return answer
        answer = operation(session, call)
        session.operations[op_id] = (body, answer)
        while len(session.operations) > KEPT_OPERATIONS:
            del session.operations[next(iter(session.operations))]
        return answer

    # sessions

    def _check_name(self, name: str | None, own: ListSession | None = None) -> None:
        if name is not None and any(
            each.name == name for each in self.sessions.values() if each is not own
        ):
            raise Refused(409, "name_taken")

    def _create(self, call: Call) -> Answer:
        params = call.params
        config: Configuration = params["configuration"]
        self._check_name(params.get("name"))
        rows: list[list[Any]] = [[] for _ in range(params.get("batch", 1))]
        cache = ListCache(config, params.get("max_tokens"), rows)
        session = ListSession(cache, params.get("name"), [*params.get("labels", [])])
        self.sessions[call.new] = session
        return Answer(self.document(call.new))

    def document(self, number: int) -> dict[str, Any]:
        """Return the members of a document that a list knows."""
        session = self.sessions[number]
        cache = session.cache
        return {
            "length": cache.length,
            "lengths": [cache.lengths(layer) for layer in cache.layers],
            "batch": len(cache.rows),
            "frozen": session.is_frozen,
            "name": session.name,
            "labels": session.labels,
        }

    def _inspect(self, session: ListSession, call: Call) -> Answer:
        return Answer(self.document(call.session))

    def _patch(self, session: ListSession, call: Call) -> Answer:
        if call.params.get("frozen") is False and session.is_frozen:
            raise Refused(423, "frozen")
        self._check_name(call.params.get("name"), session)
        if "name" in call.params:
            session.name = call.params["name"]
        if "labels" in call.params:
            session.labels = [*call.params["labels"]]
        session.is_frozen |= call.params.get("frozen", False)
        return Answer(self.document(call.session))

    def _fork(self, session: ListSession, call: Call) -> Answer:
        params, cache = call.params, session.cache
        rows = self._rows(cache, params, may_repeat=True)
        count = params.get("count", 1)
        if not 1 <= count <= 64 or (params.get("name") is not None and count > 1):
            raise Refused(422)
        lengths = params.get("length")
        lengths = self._each(lengths, len(rows)) if lengths is not None else None
        forks = [cache.fork(rows, lengths, params.get("strict", False)) for _ in range(count)]
        self._check_name(params.get("name"))
        for i, fork in enumerate(forks):
            self.sessions[call.new + i] = ListSession(fork, params.get("name"))
        documents = [self.document(call.new + i) for i in range(count)]
        return Answer({"sessions": documents})

    # guards

    def _rows(
        self, cache: ListCache, params: dict[str, Any], may_repeat: bool = False
    ) -> list[int]:
        rows = params.get("rows")
        if rows is None:
            return [*range(len(cache.rows))]
        if any(not 0 <= row < len(cache.rows) for row in rows):
            raise Refused(422)
        if len({*rows}) < len(rows) and not may_repeat:
            raise Refused(422)
        return [*rows]

    @staticmethod
    def _each(number: int | Sequence[int], count: int) -> list[int]:
        if isinstance(number, int):
            return [number] * count
        if len(number) != count:
            raise Refused(422, also=("session_conflict",))
        return [*number]

    def _guard(self, session: ListSession, params: dict[str, Any]) -> None:
        """The guard of an operation on all layers."""
        cache = session.cache
        conflict = Refused(
            409, "session_conflict", length=cache.length, generation=cache.generation
        )
        expected = params.get("expected_length")
        if expected is not None and self._each(expected, len(cache.rows)) != cache.length:
            raise conflict
        if params.get("expected_generation", cache.generation) != cache.generation:
            raise conflict

    # append, step, attend

    def _append(self, session: ListSession, call: Call) -> Answer:
        return self._run(session, call, LayerInputs.read(session.cache, call))

    _step = _append
    _attend = _append

    def _run(self, session: ListSession, call: Call, given: LayerInputs) -> Answer:
        cache, params = session.cache, call.params
        before = (cache.copied(), dict(session.digests))
        is_append = call.operation != "attend"
        try:
            if is_append and not self._is_repeat(session, call, given):
                # the queries are looked at first: an append that fails is not seen
                for i, layer in enumerate(given.layers):
                    cache.append(layer, given.rows, given.new(i), given.positions)
                    for row, digest in zip(given.rows, given.digests[i], strict=True):
                        if digest[0]:
                            session.digests[layer, row] = digest
            out, lse = [], []
            if call.operation != "append":
                for i, layer in enumerate(given.layers):
                    each = self._answer(cache, layer, given, i)
                    out.append(each[0])
                    lse.append(each[1])
        except Refused:
            cache.rows, session.digests = before
            raise
        members: dict[str, Any] = {"generation": cache.generation}
        if not is_append:
            members["length"] = cache.length
        elif "layers" in params:
            members["lengths"] = [cache.lengths(layer) for layer in given.layers]
        else:
            members["length"] = cache.lengths(given.layers[0])
        tensors = {}
        if out:
            is_stacked = "layers" in params
            tensors["out"] = torch.stack(out) if is_stacked else out[0]
            if params.get("return_lse"):
                tensors["lse"] = torch.stack(lse) if is_stacked else lse[0]
        return Answer(members, tensors)

    def _answer(
        self, cache: ListCache, layer: int, given: LayerInputs, i: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            cache.attend(
                layer,
                row,
                q,
                given.positions[j] if given.positions is not None else None,
                given.q_index[j] if given.q_index is not None else None,
                given.tail_masks[j] if given.tail_masks is not None else None,
            )
            for j, (row, q) in enumerate(zip(given.rows, given.queries(i), strict=True))
        ]
        out, lse = ([torch.from_numpy(np.array(part[k])) for part in parts] for k in (0, 1))
        if given.is_packed:
            return torch.cat(out), torch.cat(lse)
        return torch.stack(out), torch.stack(lse)

    def _is_repeat(self, session: ListSession, call: Call, given: LayerInputs) -> bool:
        """Check the guard of an append: whether it has been done already."""
        cache, params = session.cache, call.params
        lengths = [cache.lengths(layer) for layer in given.layers]
        members: dict[str, Any] = {"generation": cache.generation}
        if "layers" in params:
            members["lengths"] = lengths
        else:
            members["length"] = lengths[0]
        if params.get("expected_generation", cache.generation) != cache.generation:
            raise Refused(409, "session_conflict", **members)
        expected = params.get("expected_length")
        if expected is None:
            return False
        expected = self._each(expected, len(given.rows))
        are = [[each[row] for row in given.rows] for each in lengths]
        if all(each == expected for each in are):
            return False
        after = [e + n for e, n in zip(expected, given.counts, strict=True)]
        if all(each == after for each in are) and all(
            n == 0 or session.digests.get((layer, row)) == given.digests[i][j]
            for i, layer in enumerate(given.layers)
            for j, (row, n) in enumerate(zip(given.rows, given.counts, strict=True))
        ):
            self.num_repeats += 1
            return True
        raise Refused(409, "session_conflict", **members)

    # operations on all layers

    def _structural(self, session: ListSession) -> Answer:
        session.digests.clear()
        return Answer({"length": session.cache.length, "generation": session.cache.generation})

    def _truncate(self, session: ListSession, call: Call) -> Answer:
        params, cache = call.params, session.cache
        if "drop" in params:
            lengths = [length - params["drop"] for length in cache.length]
        else:
            lengths = self._each(params["length"], len(cache.rows))
        self._guard(session, params)
        if any(length < 0 for length in lengths):
            raise Refused(409, "session_conflict")
        cache.truncate(lengths)
        return self._structural(session)

    def _select_tail(self, session: ListSession, call: Call) -> Answer:
        n, kept = call.params["n"], call.params["kept"]
        cache = session.cache
        if not kept or isinstance(kept[0], int):
            kept = [kept] * len(cache.rows)
        if len(kept) != len(cache.rows):
            raise Refused(422)
        for offsets in kept:
            if offsets != sorted({*offsets}) or any(not 0 <= each < n for each in offsets):
                raise Refused(422)
        self._guard(session, call.params)
        cache.select_tail(n, kept)
        return self._structural(session)

    def _reorder(self, session: ListSession, call: Call) -> Answer:
        rows = self._rows(session.cache, call.params, may_repeat=True)
        self._guard(session, call.params)
        session.cache.reorder(rows)
        return self._structural(session)

    def _evict(self, session: ListSession, call: Call) -> Answer:
        params, cache = call.params, session.cache
        rows = self._rows(cache, params)
        self._guard(session, params)
        if "sinks" in params:
            lengths = [cache.length[row] for row in rows]
            start = [min(params["sinks"], length) for length in lengths]
            stop = [
                max(length - params["recent"], s) for length, s in zip(lengths, start, strict=True)
            ]
        else:
            start = self._each(params["start"], len(rows))
            stop = self._each(params["stop"], len(rows))
        cache.evict(rows, start, stop, params.get("close", True))
        return self._structural(session)

    def _shift(self, session: ListSession, call: Call) -> Answer:
        params, cache = call.params, session.cache
        rows = self._rows(cache, params)
        delta = self._each(params["delta"], cache.config.num_axes)
        start = self._each(params["start"], len(rows))
        stop = self._each(params["stop"], len(rows))
        self._guard(session, params)
        cache.shift(rows, start, stop, delta)
        return self._structural(session)

    def _attach(self, session: ListSession, call: Call) -> Answer:
        params, cache = call.params, session.cache
        if params["source"] in self.ended:
            raise Refused(410, "session_gone", reason="deleted")
        source = self.sessions[params["source"]].cache
        position = params.get("position")
        if position is not None:
            position = tuple(self._each(position, cache.config.num_axes))
        self._guard(session, params)
        cache.attach(source, params["start"], params["stop"], position)
        return self._structural(session)

    def _compact(self, session: ListSession, call: Call) -> Answer:
        """Segments are joined: nothing that a list shows."""
        return Answer({})


def dtype_of(config: Configuration) -> torch.dtype:
    return DTYPES[config.dtype]
