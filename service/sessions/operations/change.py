"""PATCH a session (name, labels, lease, pin, snapshot), and delete it."""

from service.sessions.lifetime.changes import MEMBERS
from service.sessions.lifetime.documents import document
from service.sessions.requests.parameters import check_names
from service.sessions.running.answer import SessionAnswer, message_of
from service.sessions.running.call import SessionCall


async def run_change(call: SessionCall) -> SessionAnswer:
    """Change name, labels, ttl_s, pinned or frozen; all or none.

    Only freezing waits for the turn of the session.

    Raises:
        SessionError, ServiceError, RopeError: the session is unchanged.
    """
    values = check_names(call.message, MEMBERS)
    registry, session = call.services.registry, call.session
    turn = None
    if "frozen" in values:
        turn = await call.take_turn(changes=False, needs_pages=False)
    try:
        registry.update(session, values)
    finally:
        if turn is not None:
            turn.release()
    now = registry.clock()
    headers = {"X-Session-Expires-In": str(int(session.expires_in_s(now)))}
    return SessionAnswer(message_of(document(session, now)), headers=headers, is_document=True)


async def run_delete(call: SessionCall) -> SessionAnswer:
    """End the session at its turn.

    Raises:
        SessionGone: it has ended meanwhile.
        OperationTimedOut, ClientLeft: the session lives on.
    """
    check_names(call.message, ())
    turn = await call.take_turn(changes=False, needs_pages=False)
    try:
        call.services.registry.end(call.session, "deleted")
    finally:
        turn.release()
    return SessionAnswer(message_of({}), status=204)
