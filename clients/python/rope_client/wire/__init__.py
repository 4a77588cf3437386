"""Codecs of messages: one module for each media type, with `encode` and `decode`."""

from typing import Literal, Protocol

from rope_client.wire import json_codec, safetensors_codec
from rope_client.wire.message import Message

Encoding = Literal["safetensors", "json"]


class Codec(Protocol):
    """What a module of this package provides."""

    MEDIA_TYPE: str

    def encode(self, message: Message) -> bytes:
        """Return the message's bytes."""

    def decode(self, body: bytes) -> Message:
        """Return the message; its tensors are views of `body` if the codec allows it."""


CODECS: dict[Encoding, Codec] = {"safetensors": safetensors_codec, "json": json_codec}
_BY_MEDIA_TYPE = {codec.MEDIA_TYPE: codec for codec in CODECS.values()}


def codec_for(content_type: str) -> Codec:
    """Return the codec of an answer's Content-Type; KeyError if there is none."""
    return _BY_MEDIA_TYPE[content_type.split(";")[0].strip().lower()]
