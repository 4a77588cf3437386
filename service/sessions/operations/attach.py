"""Attach: append tokens of another session by reference."""

from rope_core import ConfigError
from rope_core.kvcache.structure import check_level
from service.sessions.find_source import find_source
from service.sessions.lifetime.session import Session
from service.sessions.operations.structural import COMMON, Guarded, apply_at_turn
from service.sessions.requests.parameters import MAX_NUMBER, check_names, text, whole, whole_or_list
from service.sessions.running.answer import SessionAnswer
from service.sessions.running.call import SessionCall

PARAMS = ("source", "start", "stop", "position", *COMMON)


async def run(call: SessionCall) -> SessionAnswer:
    """Attach tokens of a session that has the same groups and dtype.

    Raises:
        SessionError, ServiceError, RopeError: both sessions are unchanged.
    """
    call.check_not_frozen()
    values = check_names(call.message, PARAMS)
    guarded = Guarded.read("attach", values)
    start, stop = whole(values, "start", 0), whole(values, "stop", None)
    position = whole_or_list(values, "position", None, least=-MAX_NUMBER)
    source = find_source(call.services.registry, text(values, "source"), call.context.tenant)
    if source.configuration_digest != call.session.configuration_digest:
        expected = "a session with the same groups, dtype and kv_dtype"
        raise ConfigError("source", expected, "one with others")

    def apply(session: Session) -> None:
        check_level(source.cache)
        length = source.cache.length
        last = min(length) if stop is None else stop
        if not start <= last <= min(length):
            got = f"{start} and {last}"
            raise ConfigError("start", f"0 <= start <= stop <= {min(length)}", got)
        session.cache.attach(source.cache, start, last, position=position)

    return await apply_at_turn(call, await call.take_turn(source), guarded, apply)
