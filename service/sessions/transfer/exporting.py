"""Export: a session's tokens as one safetensors body, of which only a part is in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import KVCacheError
from rope_core.kvcache.transfer.digest import rope_digest
from rope_core.kvcache.transfer.exporting import PIECE_BYTES, Export, export
from rope_core.kvcache.transfer.snapshot import take_snapshot
from service import __version__
from service.sessions.lifetime.session import Session
from service.sessions.running.call import SessionCall
from service.sessions.running.translate import translate
from service.sessions.transfer.query import ExportQuery
from service.wire import Buffer, Parameters, safetensors_codec
from service.wire.elements import view_as_bytes

FORMAT_VERSION = 1

MEMORY_BYTES = 3 * PIECE_BYTES
"""Memory of an export in addition to the pages: a piece, its copy, and the bytes being sent."""


@dataclass(slots=True)
class SessionExport:
    """The body of an export. Its pages are kept until `close`, even if the session changes or ends.

    The next append to the session copies the last page of each row.
    """

    snapshot: KVCache
    content: Export
    header: bytes
    expires_in_s: float

    @property
    def num_bytes(self) -> int:
        """Length of the body."""
        return len(self.header) + sum(each.num_bytes for each in self.content.tensors)

    def blocks(self) -> Iterator[bytes]:
        """Yield the body in blocks of about PIECE_BYTES; each takes the time of a copy."""
        parts: list[Buffer] = [self.header]
        for tensor in self.content.tensors:
            for piece in tensor.pieces():
                parts.append(view_as_bytes(piece))
                if sum(map(len, parts)) >= PIECE_BYTES:
                    yield b"".join(parts)
                    parts = []
        yield b"".join(parts)

    def close(self) -> None:
        """Give the pages back."""
        self.snapshot.close()


async def begin_export(call: SessionCall, query: ExportQuery) -> SessionExport:
    """Return the export of a session as it is at its turn.

    Raises:
        SessionError, ServiceError, RopeError: there is nothing to close.
    """
    session = call.session
    call.context.charge.add(MEMORY_BYTES)
    turn = await call.take_turn(changes=False)
    try:
        snapshot = take_snapshot(session.cache, strict=query.strict)
        try:
            content = export(
                snapshot,
                query.form,
                rows=query.rows,
                layers=query.layers,
                start=query.start,
                stop=query.stop,
            )
            layout = tuple((each.name, each.dtype, each.shape) for each in content.tensors)
            params = Parameters.of(_params(session, content))
            header = safetensors_codec.format_header(layout, params)
        except BaseException:
            snapshot.close()
            raise
    except KVCacheError as error:
        raise translate(error, session) from None
    finally:
        expires_in_s = session.expires_in_s(call.services.registry.clock())
        turn.release()
    return SessionExport(snapshot, content, header, expires_in_s)


def _params(session: Session, content: Export) -> dict[str, Any]:
    config = session.cache.config
    return {
        "format_version": FORMAT_VERSION,
        "form": content.form,
        "whole": content.is_whole,
        "configuration": dict(session.configuration),
        "rope_digest": rope_digest(config),
        "rotated": content.form != "raw",
        "kv_dtype": config.kv_dtype,
        "service_version": __version__,
        "rows": [*content.rows],
        "layers": [*content.layers],
        "start": [*content.starts],
        "lengths": [[*each] for each in content.lengths],
        "stored_segments": [[[*each] for each in row] for row in content.segments],
    }
