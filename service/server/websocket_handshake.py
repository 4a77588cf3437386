"""The handshake of a WebSocket: a request, parsed already, becomes a protocol, or an error."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidOrigin, InvalidUpgrade, NegotiationError
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from service.asgi.request_header import RequestHeader
from service.errors import BadHeader, BadRequest, Forbidden, UpgradeRequired

SUBPROTOCOL = Subprotocol("rope.session.v1")

_log = logging.getLogger("rope.websocket")
_log.setLevel(logging.WARNING)  # the library logs each connection


class Accepted(NamedTuple):
    """An accepted handshake."""

    protocol: ServerProtocol
    """Of the open WebSocket."""
    response: bytes


def shake_hands(
    header: RequestHeader, request_id: str, origins: Sequence[str], max_bytes: int
) -> Accepted:
    """Return the protocol of a new WebSocket, and the response.

    Extensions are declined: tensors do not compress.

    Args:
        header: of the request.
        request_id: for the response.
        origins: values that the header Origin may have; requests of browsers have it always.
        max_bytes: longest message.

    Raises:
        Forbidden: the Origin is another one.
        UpgradeRequired: the request does not ask for a WebSocket.
        BadRequest, BadHeader: the request is not a valid handshake.
    """
    if header.content_length != 0:
        raise BadRequest("a WebSocket handshake has no body")
    handshake = ServerProtocol(
        origins=[None, *map(Origin, origins)],
        select_subprotocol=_select_subprotocol,
        logger=_log,
    )
    fields = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in header.fields)
    version = f"HTTP/{header.version}"
    response = handshake.accept(Request(header.path, Headers(fields), header.method, version))
    match handshake.handshake_exc:
        case None:
            response.headers["X-Request-Id"] = request_id
            protocol = ServerProtocol(state=OPEN, max_size=max_bytes, logger=_log)
            return Accepted(protocol, response.serialize())
        case InvalidOrigin():
            raise Forbidden("Origin must be absent, or one of ROPE_SESSION_ORIGINS")
        case InvalidUpgrade():
            raise UpgradeRequired("this route is a WebSocket: ask for the upgrade")
        case failure:
            raise BadHeader(f"this is not a valid WebSocket handshake: {failure}")


def _select_subprotocol(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return our subprotocol, if it is offered; a client that offers none needs none.

    Raises:
        NegotiationError: the client offers others only.
    """
    if not offered:
        return None
    if SUBPROTOCOL not in offered:
        raise NegotiationError(f"the subprotocol must be {SUBPROTOCOL}, or absent")
    return SUBPROTOCOL
