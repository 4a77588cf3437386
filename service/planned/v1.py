"""Planned requests of `/v1`: safetensors, whose description is the header of that format."""

from collections.abc import Mapping
from typing import Any

from service.asgi import io, problems
from service.endpoints.table import Endpoint
from service.planned.plan import AnswerFormat, Description, ParsedRequest
from service.v1.http_params import HEADER
from service.wire import Message, codec_for, negotiate_response_codec, safetensors_codec


class V1Route:
    """One route of `/v1` for planned requests."""

    def __init__(self, endpoint: Endpoint[Any]) -> None:
        self.endpoint = endpoint

    def accepts(self, fields: Mapping[bytes, bytes]) -> bool:
        """Tell whether requests with these fields have bodies and answers in safetensors.

        Parameters must be in the body. A target with a query is none of a planned route.

        Raises:
            UnsupportedMediaType, NotAcceptable: no request may have such fields.
        """
        if HEADER in fields:
            return False
        accepted = negotiate_response_codec(fields.get(b"accept")) or safetensors_codec
        return codec_for(fields.get(b"content-type")) is accepted is safetensors_codec

    def read_description(self, fields: Mapping[bytes, bytes], body: bytes) -> Description | None:
        """Return the description at the start of a body, None if the request has no plan."""
        if len(body) < 8:
            return Description(body, b"", 8)
        size = 8 + int.from_bytes(body[:8], "little")
        return Description(body[:size], b"", size) if size > 8 else None

    def parse(self, description: bytes, tensors: memoryview) -> ParsedRequest:
        """Return the message of a request, and the format of its answers.

        Raises:
            BadMessage, BadTensor: the description is not valid.
        """
        message, _ = safetensors_codec.decode_parts(description[8:], tensors)
        return ParsedRequest(message, self._answer_format)

    def _answer_format(self, answer: Message) -> AnswerFormat:
        preamble, *tensors = safetensors_codec.encode(answer)
        length = len(preamble) + sum(map(len, tensors))
        media_type = safetensors_codec.media_type.encode()
        header_lines = b"content-type: %s\r\ncontent-length: %d\r\n" % (media_type, length)
        if warnings := answer.params.values.get("warnings"):
            header_lines += b"%s: %s\r\n" % io.warning_header(warnings)
        return AnswerFormat(self.endpoint.path, header_lines, bytes(preamble), problems.describe)
