"""Planned requests of `/v2`: binary tensors, whose description is the JSON part of the body."""

import re
from collections.abc import Mapping
from functools import partial

from rope_core import ShapeError
from service.asgi.io import Headers
from service.oip import errors
from service.oip.http import codec
from service.oip.infer.models import MODELS, Model
from service.oip.infer.plan import InferPlan
from service.oip.state import OipState
from service.planned.plan import PLANNED_CALLS, AnswerFormat, Description, Readable
from service.wire import Message

_ID = re.compile(rb'\{ ?"id": ?"([A-Za-z0-9_.:-]{1,64})", ?')
"""The client's name of a request, where clients write it: first."""

_ID_MARK = "rope.id"

_FIELDS = (
    b"content-type: application/octet-stream\r\n"
    b"inference-header-content-length: %d\r\ncontent-length: %d\r\n"
)


class OipRoute:
    """Inference by one model for planned requests."""

    def __init__(self, model: Model, oip_state: OipState, path: str) -> None:
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

    def describe(self, fields: Mapping[bytes, bytes], body: bytes) -> Description | None:
        """Return the JSON part of a body without its id, None if it has no plan."""
        size = int(fields[codec.JSON_LENGTH])
        if size > len(body):
            return Description(body, b"", size)
        text, request_id = body[:size], b""
        if found := _ID.match(text):
            request_id, text = found[1], b"{" + text[found.end() :]
        return Description(text, request_id, size) if b'"id"' not in text else None

    def read(self, description: bytes, tensors: memoryview) -> Readable | None:
        """Return the message of a request, and the form of its answer.

        None: not all tensors are views of the body, or not all outputs are bytes behind each other.

        Raises:
            ServiceError, RopeError: it is no request.
        """
        model, parser = self._model, self._parser
        request = codec.decode_parts(model, parser, description, tensors)
        plan = request.plan
        is_view = parser.header_cache.get(model.name, description) is not None
        outputs = [*plan.outputs]
        names = [slot.name for slot in model.outputs]
        if (
            not is_view
            or not plan.is_binary
            or plan.queue_s is not None
            or outputs != names[: len(outputs)]  # the result has these, in this order
        ):
            return None
        return Readable(request.message, partial(self._format, plan))

    def _format(self, plan: InferPlan, answer: Message) -> AnswerFormat:
        model = self._model
        plain_fields, (plain, *_) = codec.encode(model, "", plan, None, answer)
        _, (named, *tensors) = codec.encode(model, _ID_MARK, plan, None, answer)
        before, after = bytes(named).split(_ID_MARK.encode())
        num_bytes = sum(map(len, tensors))

        def with_id(request_id: bytes) -> tuple[bytes, bytes]:
            preamble = before + request_id + after
            fields = _FIELDS % (len(preamble), len(preamble) + num_bytes)
            return fields, preamble

        return AnswerFormat(
            self._path,
            b"".join(b"%s: %s\r\n" % field for field in plain_fields),
            bytes(plain),
            self._describe_failure,
            with_id,
            self._statistics,
        )

    def _describe_failure(self, failure: Exception) -> tuple[int, Headers, bytes]:
        if isinstance(failure, ShapeError):
            failure = self._model.with_input_name(failure)
        return errors.describe(failure)


def oip_routes(oip_state: OipState) -> dict[bytes, OipRoute]:
    """Return the routes that infer, by target."""
    return {
        path.encode(): OipRoute(model, oip_state, path)
        for model in MODELS.values()
        for path in model.infer_paths
        if model.call in PLANNED_CALLS
    }
