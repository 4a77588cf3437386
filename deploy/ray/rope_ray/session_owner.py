"""The owner in the id of a session: `r1.OWNER.EPOCH.RANDOM.MAC`. Imports nothing of Ray."""

import re

_ID = re.compile(r"r1\.([A-Za-z0-9_-]{1,63})\.")

_PATH = re.compile(rb"/v1/sessions/(r1\.[A-Za-z0-9_-]{1,63}\.)")


def owner_of(session_id: str) -> str | None:
    """Return the owner in an id; None if the text is no id of a session."""
    match = _ID.match(session_id)
    return None if match is None else match[1]


def owner_in_request(session_header: str, request: object) -> str | None:
    """Return the owner of the session of a request; None if it has no session.

    Args:
        session_header: value of `X-Session-Id`, empty if the request has none.
        request: the pickled request line and headers of Ray's proxy. The path is searched in the
            bytes, which is faster than unpickling. A client that writes such a path into another
            header only chooses a replica.
    """
    if session_header:
        return owner_of(session_header)
    if isinstance(request, bytes) and (match := _PATH.search(request)):
        return owner_of(match[1].decode())
    return None
