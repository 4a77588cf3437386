"""The codecs: one file for each media type, with `media_type`, `decode` and `encode`."""

from typing import Protocol

from service.errors import NotAcceptable, UnsupportedMediaType
from service.wire import json_codec, safetensors_codec
from service.wire.message import NO_PARAMETERS, Buffer, Decoded, Message, Parameters

__all__ = [
    "CODECS",
    "NO_PARAMETERS",
    "Buffer",
    "Codec",
    "Decoded",
    "Message",
    "Parameters",
    "codec_for",
    "negotiate_response_codec",
]


class Codec(Protocol):
    """What a module of this package provides."""

    media_type: str

    @property
    def memory_factor(self) -> int:
        """Bytes of memory that reading a body may take, for each of its bytes."""

    @property
    def inline_limit_bytes(self) -> int:
        """Bodies up to here are read at once; larger ones would hold up the event loop."""

    def decode(self, body: Buffer) -> Decoded:
        """Read a body; the tensors of the message are views of it where they can be."""

    def encode(self, message: Message, as_base64: bool = False) -> list[Buffer]:
        """Write a body, in parts to be sent one after the other.

        Args:
            message: what to write.
            as_base64: write tensors in base64, where the format has numbers as text.
        """


CODECS: tuple[Codec, ...] = (json_codec, safetensors_codec)

_BY_TYPE: dict[bytes, Codec] = {codec.media_type.encode(): codec for codec in CODECS}
_KNOWN = " or ".join(codec.media_type for codec in CODECS)


def codec_for(content_type: bytes | None) -> Codec:
    """Return the codec of a Content-Type.

    Raises:
        UnsupportedMediaType: there is none.
    """
    codec = _BY_TYPE.get(content_type or b"")
    if codec is not None:
        return codec
    essence, _, parameters = (content_type or b"").lower().partition(b";")
    codec = _BY_TYPE.get(essence.strip())
    if codec is None or parameters.strip() not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise UnsupportedMediaType(f"Content-Type must be {_KNOWN}")
    return codec


def negotiate_response_codec(accept: bytes | None, codec_of_request: Codec) -> Codec:
    """Return the codec that `Accept` asks for: the first it names, or the request's own.

    Raises:
        NotAcceptable: it names others only.
    """
    if accept is None or accept == b"*/*":
        return codec_of_request
    named = [item.partition(b";")[0].strip() for item in accept.lower().split(b",")]
    for media_type in named:
        if media_type in (b"*/*", b"application/*"):
            return codec_of_request
        if codec := _BY_TYPE.get(media_type):
            return codec
    raise NotAcceptable(f"Accept must admit {_KNOWN}")
