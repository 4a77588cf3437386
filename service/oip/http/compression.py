"""Compression of bodies that infer, and of no others: gzip, and deflate in zlib's wrapping."""

import zlib
from collections.abc import Callable
from functools import lru_cache

from service.errors import BadMessage, TooLarge, UnsupportedMediaType
from service.inference.handler import InferenceService
from service.wire import Buffer

_WINDOWS = {b"gzip": 31, b"deflate": 15}
"""What zlib calls each coding."""

_EITHER = 47
"""Reads both: clients mistake one for the other."""

STEP_BYTES = 2**20


def coding_of(content_encoding: bytes | None) -> bytes | None:
    """Return the coding of a body, None where it has none.

    Raises:
        UnsupportedMediaType: it is another than gzip and deflate.
    """
    coding = (content_encoding or b"identity").strip().lower()
    if coding == b"identity":
        return None
    if coding not in _WINDOWS:
        raise UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    return coding


@lru_cache(maxsize=64)
def coding_for(accept_encoding: bytes | None) -> bytes | None:
    """Return the coding of an answer: the one of ours that a client names, if it is just one.

    Tensors compress by a tenth, at a hundredth of a network's speed: who names several names what
    its library can read, and not what it wants.
    """
    named = [item.lower().split(b";") for item in (accept_encoding or b"").split(b",")]
    wanted = {
        coding.strip()
        for coding, *parameters in named
        if coding.strip() in _WINDOWS and not any(map(_is_zero, parameters))
    }
    return wanted.pop() if len(wanted) == 1 else None


def _is_zero(parameter: bytes) -> bool:
    name, _, value = parameter.strip().partition(b"=")
    return name.strip() == b"q" and not value.strip().strip(b"0.")


async def inflate(
    body: Buffer, service: InferenceService, max_bytes: int, charge: Callable[[int], None]
) -> bytes:
    """Return what a body was before it was compressed, some of it at a time.

    Args:
        body: in gzip or zlib's form.
        service: whose threads do it.
        max_bytes: longest result.
        charge: called for each piece.

    Raises:
        BadMessage: it is not such a body, or ends early.
        TooLarge: there is more in it.
    """
    stream, view = zlib.decompressobj(_EITHER), memoryview(body)
    pieces: list[bytes] = []
    length = at = 0
    rest: Buffer = b""
    while not stream.eof:
        if not rest:  # a piece at a time: what is left of it is copied at each step
            rest, at = view[at : at + STEP_BYTES], at + STEP_BYTES
        was_last = at >= len(view)
        try:
            piece = await service.run_blocking(True, stream.decompress, rest, STEP_BYTES)
        except zlib.error as broken:
            raise BadMessage(f"the compressed body is broken: {broken}") from None
        rest = stream.unconsumed_tail
        length += len(piece)
        if length > max_bytes:
            raise TooLarge("the body, decompressed, in bytes,", max_bytes, "more")
        if not piece and was_last and not rest and not stream.eof:
            raise BadMessage("the compressed body ends early")
        charge(len(piece))
        pieces.append(piece)
    if left := len(stream.unused_data) + max(len(view) - at, 0):
        raise BadMessage(f"{left} bytes are left over behind the compressed body")
    return await service.run_blocking(True, b"".join, pieces)


def compress(parts: list[Buffer], coding: bytes) -> list[Buffer]:
    """Return an answer in a coding, quickly rather than small."""
    stream = zlib.compressobj(1, wbits=_WINDOWS[coding])
    return [*(stream.compress(part) for part in parts), stream.flush()]
