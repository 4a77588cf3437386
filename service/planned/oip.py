"""Planned requests of `/v2`: binary tensors, whose description is the JSON part of the body."""

import re
from collections.abc import Mapping
from functools import partial

from service.oip import errors
from service.oip.http import codec
from service.oip.infer.models import MODELS, EndpointModel
from service.oip.infer.plan import InferPlan
from service.oip.state import OipState
from service.planned.plan import PLANNED_CALLS, AnswerFormat, Description, ParsedRequest
from service.wire import Message

_ID = re.compile(rb'\{ ?"id": ?"([A-Za-z0-9_.:-]{1,64})", ?')
"""The client's name of a request. Clients write it first."""

_ID_MARK = "rope.id"
"""Stands for the name in a rendered answer."""

_HEADER_LINES = (
    b"content-type: application/octet-stream\r\n"
    b"inference-header-content-length: %d\r\ncontent-length: %d\r\n"
)


class OipRoute:
    """Inference by one model for planned requests."""

    def __init__(self, model: EndpointModel, oip_state: OipState, path: str) -> None:
        self.endpoint = model.endpoint
        self._model = model
        self._path = path
        self._parser = oip_state.parser
        self._statistics = oip_state.statistics[model.name]
        self._max_json_bytes = oip_state.handler.settings.max_json_bytes

    def accepts(self, fields: Mapping[bytes, bytes]) -> bool:
        """Tell whether requests with these fields have a JSON part, and answers no compression.

        Raises:
            BadHeader, TooLarge, UnsupportedMediaType: no request may have such fields.
        """
        headers = codec.parse_headers(fields, self._max_json_bytes)
        return bool(headers.json_bytes) and headers.response_coding is None

    def read_description(self, fields: Mapping[bytes, bytes], body: bytes) -> Description | None:
        """Return the JSON part of a body without its id, None if it has no plan."""
        size = int(fields[codec.JSON_LENGTH])
        if size > len(body):
            return Description(body, b"", size)
        text, message_id = body[:size], b""
        if match := _ID.match(text):
            message_id, text = match[1], b"{" + text[match.end() :]
        return Description(text, message_id, size) if b'"id"' not in text else None

    def parse(self, description: bytes, tensors: memoryview) -> ParsedRequest | None:
        """Return the message of a request, and the format of its answers.

        None: `queue_s` limits its wait, or `RequestParser.has_plain_tensors` is false.

        Raises:
            ServiceError, RopeError: the request is not valid.
        """
        model, parser = self._model, self._parser
        request = codec.decode_parts(model, parser, description, tensors)
        plan = request.plan
        if plan.queue_s is not None or not parser.has_plain_tensors(model, description, plan):
            return None
        return ParsedRequest(request.message, partial(self._answer_format, plan))

    def _answer_format(self, plan: InferPlan, answer: Message) -> AnswerFormat | None:
        if not plan.is_whole(answer):
            return None
        model = self._model
        headers, (plain, *_) = codec.encode(model, "", plan, None, answer)
        _, (named, *tensors) = codec.encode(model, _ID_MARK, plan, None, answer)
        before, _, after = bytes(named).partition(_ID_MARK.encode())  # warnings come later
        num_bytes = sum(map(len, tensors))

        def with_id(message_id: bytes) -> tuple[bytes, bytes]:
            preamble = before + message_id + after
            return _HEADER_LINES % (len(preamble), len(preamble) + num_bytes), preamble

        return AnswerFormat(
            self._path,
            b"".join(b"%s: %s\r\n" % field for field in headers),
            bytes(plain),
            errors.describe,
            with_id,
            self._statistics,
        )


def oip_routes(oip_state: OipState) -> dict[bytes, OipRoute]:
    """Return the routes that infer, by target."""
    return {
        path.encode(): OipRoute(model, oip_state, path)
        for model in MODELS.values()
        for path in model.infer_paths
        if model.call in PLANNED_CALLS
    }
