"""Reorder: the rows become those of a list, as in beam search."""

from collections.abc import Mapping
from typing import Any

from rope_core import ConfigError
from service.sessions.lifetime.quotas import MAX_ROWS
from service.sessions.lifetime.session import Session
from service.sessions.operations.structural import Apply, StructuralOperation
from service.sessions.requests.parameters import check_rows_exist, whole_list


def _read(values: Mapping[str, Any]) -> Apply:
    rows: list[int] = whole_list(values, "rows")
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ConfigError("rows", f"a list of 1 to {MAX_ROWS} rows", len(rows))

    def apply(session: Session) -> None:
        check_rows_exist(rows, session.cache.batch)
        session.cache.reorder(rows)

    return apply


REORDER = StructuralOperation("reorder", ("rows",), _read)
