"""Compression of the bodies of inference, and of no others: gzip, and deflate as zlib has it."""

import zlib
from functools import lru_cache

from service.errors import BadMessage, TooLarge, UnsupportedMediaType
from service.inference.handler import InferenceHandler, RequestContext
from service.wire import Buffer

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""zlib's number for each coding."""

_GZIP_OR_ZLIB = 47
"""zlib's number for reading both: clients send one where they name the other."""

STEP_BYTES = 2**20
"""Bytes that are decompressed at a time."""

MAX_RATIO = 200
"""Highest ratio of decompressed to compressed bytes, in a body longer than STEP_BYTES. Only a body
of nearly equal bytes has a higher ratio."""


def request_coding(content_encoding: bytes | None) -> bytes | None:
    """Return the coding of a body, None where it is not compressed.

    Raises:
        UnsupportedMediaType: the coding is neither gzip nor deflate.
    """
    coding = (content_encoding or b"identity").strip().lower()
    if coding == b"identity":
        return None
    if coding not in _WINDOW_BITS:
        raise UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    return coding


@lru_cache(maxsize=64)
def response_coding(accept_encoding: bytes | None) -> bytes | None:
    """Return the coding of an answer: gzip or deflate where a client accepts just one of them.

    Tensors shrink by a tenth only, at a hundredth of a network's speed. A client that accepts both
    lists what its library can read, not what it wants.
    """
    items = [item.lower().split(b";") for item in (accept_encoding or b"").split(b",")]
    accepted = {
        coding.strip()
        for coding, *parameters in items
        if coding.strip() in _WINDOW_BITS and not any(map(_is_zero, parameters))
    }
    return accepted.pop() if len(accepted) == 1 else None


def _is_zero(parameter: bytes) -> bool:
    name, _, value = parameter.strip().partition(b"=")
    return name.strip() == b"q" and not value.strip().strip(b"0.")


async def inflate(
    handler: InferenceHandler, context: RequestContext, body: Buffer, memory_factor: int
) -> bytes:
    """Return a decompressed body, decompressed step by step on a thread.

    Args:
        handler: has the threads and the limits.
        context: of the request; the memory of each step is added to its charge.
        body: in the format of gzip or of zlib.
        memory_factor: bytes of memory for each byte of the result, when it is decoded.

    Raises:
        BadMessage: the body has another format, or ends early.
        TooLarge: the result is larger than a body may be.
        Overloaded: there is too little memory for it now.
        TimedOut: the deadline has passed.
    """
    stream, view = zlib.decompressobj(_GZIP_OR_ZLIB), memoryview(body)
    max_bytes = handler.max_bytes(memory_factor)
    parts: list[bytes] = []
    num_bytes = start = 0
    rest: Buffer = b""
    while not stream.eof:
        if not rest:  # a slice at a time, because zlib copies what it has not read at each step
            rest, start = view[start : start + STEP_BYTES], start + STEP_BYTES
        was_last = start >= len(view)
        try:
            part = await handler.to_thread(context.deadline, stream.decompress, rest, STEP_BYTES)
        except zlib.error:
            raise BadMessage("the compressed body is broken: not gzip or deflate") from None
        rest = stream.unconsumed_tail
        num_bytes += len(part)
        if num_bytes > max_bytes:
            what = "the body, decompressed, in bytes,"
            raise handler.too_large(what, memory_factor, "more")
        num_read = min(start, len(view)) - len(rest)
        if num_bytes > STEP_BYTES and num_bytes > num_read * MAX_RATIO:
            raise TooLarge("the ratio of decompressed to compressed bytes", MAX_RATIO, "more")
        if not part and was_last and not rest and not stream.eof:
            raise BadMessage("the compressed body ends early")
        context.charge.add(len(part) * memory_factor)
        parts.append(part)
    if trailing := len(stream.unused_data) + max(len(view) - start, 0):
        raise BadMessage(f"{trailing} trailing bytes after the compressed body")
    return await handler.to_thread(context.deadline, b"".join, parts)


def compress(parts: list[Buffer], coding: bytes) -> list[Buffer]:
    """Return an answer in a coding, compressed fast rather than well."""
    stream = zlib.compressobj(1, wbits=_WINDOW_BITS[coding])
    return [*(stream.compress(part) for part in parts), stream.flush()]
