"""Select tail: keep the accepted path of a tree of drafts."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from rope_core import ConfigError
from rope_core.kvcache.cache import Pending
from service.sessions.lifetime.session import Session
from service.sessions.operations.moves import Move, MoveOperation
from service.sessions.requests.parameters import whole, whole_list
from service.sessions.running.call import SessionServices


def _read(values: Mapping[str, Any], _session: Session, _services: SessionServices) -> Move:
    num_tail = whole(values, "n")
    kept = values.get("kept")
    is_nested = isinstance(kept, list) and bool(kept) and all(isinstance(x, list) for x in kept)
    rows: list[Any] = kept if is_nested and isinstance(kept, list) else [kept]
    for row in rows:
        offsets = whole_list({"kept": row}, "kept")
        is_increasing = all(first < second for first, second in pairwise(offsets))
        if not is_increasing or (offsets and offsets[-1] >= num_tail):
            raise ConfigError("kept", f"increasing offsets below n = {num_tail}", offsets[:8])

    def plan(session: Session) -> Pending:
        batch = session.cache.batch
        if is_nested and len(rows) != batch:
            raise ConfigError("kept", f"one list, or a list of {batch}, one a row", len(rows))
        return session.cache.plan_select_tail(num_tail, rows if is_nested else rows * batch)

    return Move(plan)


SELECT_TAIL = MoveOperation("select_tail", ("n", "kept"), _read)
