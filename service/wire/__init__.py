"""The codecs: one file for each media type, with `media_type`, `decode` and `encode`."""

from functools import lru_cache
from typing import Protocol

from service.errors import NotAcceptable, UnsupportedMediaType
from service.wire import json_codec, safetensors_codec
from service.wire.message import NO_PARAMETERS, Buffer, Decoded, Message, Parameters, params_key

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
    "params_key",
]


class Codec(Protocol):
    """The interface of a codec: a module of this package. It keeps no state."""

    media_type: str

    @property
    def memory_factor(self) -> int:
        """Most bytes of memory that decoding takes for each byte of a body."""

    @property
    def answer_memory_factor(self) -> int:
        """Most bytes of memory for each byte of an answer's tensors, while it is encoded."""

    @property
    def inline_limit_bytes(self) -> int:
        """Largest tensors that are encoded on the event loop, and not in a thread."""

    def long_text_bytes(self, body: Buffer) -> int:
        """Return the length of the text in a body if a thread must parse it, else 0."""

    def decode(self, body: Buffer) -> Decoded:
        """Read a body; the tensors of the message are views of the body where possible."""

    def encode(self, message: Message, as_base64: bool = False) -> list[Buffer]:
        """Write a body, in parts to be sent one after the other.

        Args:
            message: what to write.
            as_base64: write tensors in base64, where the format has numbers as text.
        """


CODECS: tuple[Codec, ...] = (json_codec, safetensors_codec)

_BY_TYPE: dict[bytes, Codec] = {codec.media_type.encode(): codec for codec in CODECS}
_MEDIA_TYPES = " or ".join(codec.media_type for codec in CODECS)


@lru_cache(maxsize=64)
def codec_for(content_type: bytes | None) -> Codec:
    """Return the codec of a Content-Type.

    Raises:
        UnsupportedMediaType: no codec has this media type, or the charset is not UTF-8.
    """
    essence, _, parameters = (content_type or b"").lower().partition(b";")
    codec = _BY_TYPE.get(essence.strip())
    if codec is None or parameters.strip() not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise UnsupportedMediaType(f"Content-Type must be {_MEDIA_TYPES}")
    return codec


@lru_cache(maxsize=64)
def negotiate_response_codec(accept: bytes | None) -> Codec | None:
    """Return the codec of the first media type in `Accept` that is served.

    None where any will do: the header is missing, or the media type is a wildcard.

    Raises:
        NotAcceptable: `Accept` names only other media types.
    """
    if accept is None or accept == b"*/*":
        return None
    for item in accept.lower().split(b","):
        media_type = item.partition(b";")[0].strip()
        if media_type in (b"*/*", b"application/*"):
            return None
        if codec := _BY_TYPE.get(media_type):
            return codec
    raise NotAcceptable(f"Accept must allow {_MEDIA_TYPES}")
