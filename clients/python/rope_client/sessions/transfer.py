"""Exports to files and imports from files: only a piece of a body is in memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Unpack
from urllib.parse import urlencode

from rope_client import readers
from rope_client.attempts import Request
from rope_client.call import Call, Options
from rope_client.errors import UnexpectedAnswer
from rope_client.sessions.document import SessionDocument, document_of
from rope_client.transport import StrPath
from rope_client.wire import safetensors_codec

PIECE_BYTES = 1 << 20

Form = Literal["stored", "positioned", "raw"]
"""Of the keys of an export: as they are stored, which can be imported; moved to their positions;
not rotated."""


class ExportTarget:
    """Where an export is written: a file, or a path, which gets the file once all is written.

    Args:
        target: a path, or a file that is open for writing bytes.
    """

    def __init__(self, target: StrPath | BinaryIO) -> None:
        self._path = Path(target) if isinstance(target, str | os.PathLike) else None
        self._file = None if isinstance(target, str | os.PathLike) else target
        is_seekable = self._file is not None and self._file.seekable()
        self._start = self._file.tell() if self._file is not None and is_seekable else 0
        self.is_repeatable = self._path is not None or is_seekable
        """Whether another attempt can write from the beginning again."""

    @contextmanager
    def attempt(self) -> Iterator[Writer]:
        """Yield what one attempt writes to; at its end a file at the path is replaced."""
        if self._file is not None:
            if self.is_repeatable:
                self._file.seek(self._start)
                self._file.truncate()
            yield Writer(self._file)
            return
        assert self._path is not None, "a target without a file has a path"
        part = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with part.open("wb") as file:
                yield Writer(file)
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)


class Writer:
    """Writes the body of one attempt, and counts its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0

    def write(self, piece: bytes) -> None:
        """Write a piece."""
        self._file.write(piece)
        self.num_bytes += len(piece)

    def check(self, length: str | None) -> None:
        """Raise UnexpectedAnswer unless `length` bytes were written, by the Content-Length."""
        if length is not None and int(length) != self.num_bytes:
            raise UnexpectedAnswer(f"the export of {length} bytes ends after {self.num_bytes}")


def export(
    session_id: str,
    target: StrPath | BinaryIO,
    form: Form = "stored",
    *,
    rows: str | None = None,
    layers: str | None = None,
    start: int | None = None,
    stop: int | None = None,
    strict: bool = False,
    **options: Unpack[Options],
) -> tuple[Call[int], ExportTarget]:
    """Write the tokens to a file of safetensors; return its number of bytes.

    Treat the file as confidential as the text: the text can be computed from it.

    Args:
        session_id: id of the session.
        target: a path, or a file that is open for writing bytes.
        form: of the keys. `stored`: can be imported, and then answers with the same bits.
            `positioned`: moved to their positions. `raw`: not rotated.
        rows: numbers and ranges such as `"0,2-3"`; None: all.
        layers: as `rows`.
        start: first place; None: the first that is still stored.
        stop: place behind the last token; None: the length of the shortest layer.
        strict: raise an error if layers have different lengths.
        options: of the call; `timeout_s` bounds the time until the first byte.
    """
    export_target = ExportTarget(target)
    values = {
        "form": form,
        "rows": rows,
        "layers": layers,
        "start": start,
        "stop": stop,
        "strict": "true" if strict else None,
    }
    query = urlencode({name: value for name, value in values.items() if value is not None})
    call = Call(
        path=f"/v1/sessions/{session_id}/export?{query}",
        message=None,
        read=lambda response: int(response.headers["content-length"]),
        options=options,
        is_idempotent=export_target.is_repeatable,
        headers={"X-Session-Id": session_id},
    )
    return call, export_target


def import_session(
    path: StrPath,
    *,
    ttl_s: float | None = None,
    name: str | None = None,
    **options: Unpack[Options],
) -> Call[SessionDocument]:
    """Build the request of an import, without its body."""
    values = {"ttl_s": ttl_s, "name": name}
    query = urlencode({key: value for key, value in values.items() if value is not None})
    headers = {
        "Idempotency-Key": uuid.uuid4().hex,
        "Content-Type": safetensors_codec.MEDIA_TYPE,
        "Content-Length": str(Path(path).stat().st_size),
    }
    return Call(
        path=f"/v1/sessions?{query}" if query else "/v1/sessions",
        message=None,
        read=lambda response: document_of(readers.members(response)),
        options=options,
        is_idempotent=True,
        method="POST",
        headers=headers,
        answered_with=201,
    )


def without_timeout(request: Request) -> Request:
    """Return a request whose body may take any time to send."""
    headers = {k: v for k, v in request.headers.items() if k != "X-Request-Timeout-Ms"}
    return Request(request.method, request.path, headers, request.content, request.timeout_s)


def pieces_of(path: StrPath) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    with Path(path).open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def pieces_of_async(path: StrPath) -> AsyncIterator[bytes]:
    """Yield the bytes of a file. The read of a piece blocks the event loop for about 1 ms."""
    for piece in pieces_of(path):
        yield piece
