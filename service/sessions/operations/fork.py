"""Fork: new sessions that share the pages of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from rope_core import ConfigError
from service.sessions.lifetime.documents import document
from service.sessions.lifetime.quotas import MAX_FORKS, MAX_ROWS
from service.sessions.lifetime.session import Session, SessionOptions
from service.sessions.paths import PREFIX
from service.sessions.requests.parameters import (
    check_names,
    check_rows_exist,
    flag,
    whole,
    whole_list,
    whole_or_list,
)
from service.sessions.running.answer import SessionAnswer, message_of
from service.sessions.running.call import SessionCall, SessionServices

PARAMS = ("rows", "length", "count", "strict", "name", "labels", "ttl_s", "max_age_s", "evictable")


async def run(call: SessionCall) -> tuple[SessionAnswer, list[Session]]:
    """Fork a session; return the answer and the forks.

    Raises:
        SessionError, ServiceError, RopeError: there is no new session.
    """
    values = check_names(call.message, PARAMS)
    rows: list[int] | None = whole_list(values, "rows", None)
    if rows is not None and not 1 <= len(rows) <= MAX_ROWS:
        raise ConfigError("rows", f"a list of 1 to {MAX_ROWS} rows", len(rows))
    lengths = whole_or_list(values, "length", None)
    count = whole(values, "count", 1, least=1, most=MAX_FORKS)
    strict, options = flag(values, "strict"), read_options(values)
    session, registry = call.session, call.services.registry
    turn = await call.take_turn(changes=False)
    try:
        if rows is not None:
            check_rows_exist(rows, session.cache.batch)
        num_rows = session.cache.batch if rows is None else len(rows)
        if isinstance(lengths, list) and len(lengths) != num_rows:
            raise ConfigError("length", f"a number, or a list of {num_rows}", len(lengths))
        forks = await call.services.offload.with_room(
            lambda: registry.fork(
                session,
                count,
                lambda: session.cache.fork(rows, lengths, count, strict=strict),
                options,
            ),
            call.context,
        )
    finally:
        turn.release()
    return answer_of(call.services, forks)._replace(restore_s=call.restore_s), forks


def answer_of(services: SessionServices, forks: Sequence[Session]) -> SessionAnswer:
    """Return the answer with the ids and the documents of new sessions."""
    now = services.registry.clock()
    values = {
        "ids": [fork.id.text for fork in forks],
        "sessions": [document(fork, now) for fork in forks],
    }
    return SessionAnswer(
        message_of(values),
        status=201,
        headers={
            "Location": PREFIX + forks[0].id.text,
            "X-Session-Expires-In": str(int(forks[0].expires_in_s(now))),
        },
        is_document=True,
    )


def read_options(values: Mapping[str, Any]) -> SessionOptions:
    """Return what a client asks for in addition to a configuration; the registry checks it."""
    return SessionOptions(
        ttl_s=values.get("ttl_s"),
        max_age_s=values.get("max_age_s"),
        is_evictable=flag(values, "evictable"),
        name=values.get("name"),
        labels=() if values.get("labels") is None else values["labels"],
    )
