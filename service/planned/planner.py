"""Find the plan of a request by the bytes of its header, and make plans."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import httptools
import torch

from rope_core import Attend, Rotate
from rope_core.errors import RopeError
from service.asgi import io, problems
from service.endpoints.builders import PreparedCall
from service.endpoints.table import ENDPOINTS, Endpoint
from service.errors import ServiceError
from service.inference.handler import InferenceHandler
from service.planned.plan import AnswerFormat, Plan, TensorSpan
from service.wire import Message, safetensors_codec

MAX_PLANS = 1024
"""Plans, and headers, that are kept. When there are more, all are dropped."""

MAX_HEADER_BYTES = 2**12
"""Longest header, and longest description of tensors, that has a plan."""

_HEADER_END = b"\r\n\r\n"
_IDENTIFIER = re.compile(rb"\r\n(x-request-id|traceparent): ?([^\r\n]*)", re.IGNORECASE)
_NEVER_PLANNED = frozenset(
    (b"transfer-encoding", b"expect", b"content-encoding", b"upgrade", b"connection")
)


class Header(NamedTuple):
    """A request's header, parsed."""

    endpoint: Endpoint[Any]
    fields: Mapping[bytes, bytes]
    num_body_bytes: int


class Match(NamedTuple):
    """A request that has a plan, or may get one."""

    plan: Plan | None
    """None: the plan can be made once the whole body is there."""
    header: Header
    key: bytes
    """Header and description of the tensors, without identifiers."""
    identifiers: dict[bytes, bytes]
    start: int
    """Where the bytes of the tensors begin. If that is beyond the data, the description of the
    tensors is not complete, and `start` may still grow."""
    end: int
    """Where the request ends."""


class Planner:
    """Finds and makes plans.

    Args:
        handler: reads requests in the ordinary way.
    """

    def __init__(self, handler: InferenceHandler) -> None:
        self._handler = handler
        self._max_body_bytes = handler.max_bytes(1)
        self._headers: dict[bytes, Header | None] = {}
        self._plans: dict[bytes, Plan | None] = {}
        self._endpoints = {
            endpoint.path.encode(): endpoint
            for endpoint in ENDPOINTS
            if endpoint.path in ("/v1/rotate", "/v1/attention")
        }

    def match(self, data: bytes) -> Match | None:
        """Return what is known of the request at the start of `data`; None: it is not planned."""
        at = data.find(_HEADER_END, 0, MAX_HEADER_BYTES)
        if at < 0:
            return None
        at += len(_HEADER_END)
        text = data[:at]
        identifiers: dict[bytes, bytes] = {}
        if text not in self._headers:
            text, identifiers = _without_identifiers(text)
        header = self._header(text)
        if header is None:
            return None
        size = int.from_bytes(data[at : at + 8], "little") if len(data) >= at + 8 else 0
        start, end = at + 8 + size, at + header.num_body_bytes
        if size > MAX_HEADER_BYTES or start > end or header.num_body_bytes > self._max_body_bytes:
            return None
        key = text + data[at:start]
        plan = self._plans.get(key)
        if plan is None and key in self._plans:
            return None
        return Match(plan, header, key, identifiers, start, end)

    def make(self, match: Match, body: memoryview) -> Plan | None:
        """Return the plan of a request whose tensors are `body`, None if it can have none."""
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        plan = self._plans[match.key] = self._make(match, body)
        return plan

    def _header(self, text: bytes) -> Header | None:
        try:
            return self._headers[text]
        except KeyError:
            pass
        if len(self._headers) >= MAX_PLANS:
            self._headers.clear()
        header = self._headers[text] = _parse_header(text, self._endpoints)
        return header

    def _make(self, match: Match, body: memoryview) -> Plan | None:
        handler, endpoint = self._handler, match.header.endpoint
        description = match.key[match.key.index(_HEADER_END) + len(_HEADER_END) :]
        try:
            timeout_s = io.timeout_s(match.header.fields)
            message, _ = safetensors_codec.decode(description + bytes(body))
            prepared = endpoint.read(message, handler.rope_resolver)
            if not isinstance(prepared, PreparedCall) or prepared.warnings or prepared.backend:
                return None
            call = prepared.call
            if not isinstance(call, Rotate | Attend) or call.rope is None:
                return None
            job = handler.engine.job(call, handler.backend_policy.choose(call, None))
        except (ServiceError, RopeError):
            return None
        if job.answer_bytes > self._max_body_bytes:
            return None
        answer = _answer_tensors(call)
        preamble = safetensors_codec.encode(Message(answer))[0]
        num_answer_bytes = sum(tensor.nbytes for tensor in answer.values())
        params = message.params
        settings = handler.settings
        return Plan(
            match.key,
            len(body),
            settings.default_timeout_s
            if timeout_s is None
            else min(timeout_s, settings.max_timeout_s),
            match.header.num_body_bytes + num_answer_bytes,
            job,
            None,
            _spans(message),
            lambda tensors: endpoint.read(Message(tensors, params), handler.rope_resolver),
            AnswerFormat(
                endpoint.path,
                b"content-type: %s\r\ncontent-length: %d\r\n"
                % (
                    safetensors_codec.media_type.encode(),
                    len(preamble) + num_answer_bytes,
                ),
                bytes(preamble),
                problems.describe,
            ),
        )


def _without_identifiers(text: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a header without the lines that differ in each request, and what these say."""
    identifiers = {name.lower(): value for name, value in _IDENTIFIER.findall(text)}
    return _IDENTIFIER.sub(b"", text) if identifiers else text, identifiers


def _parse_header(text: bytes, endpoints: Mapping[bytes, Endpoint[Any]]) -> Header | None:
    """Return a parsed header, None if requests with such a header have no plan."""
    if len(text) > MAX_HEADER_BYTES:
        return None
    reader = _HeaderReader()
    try:
        parser = httptools.HttpRequestParser(reader)
        parser.feed_data(text)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    fields = dict(reader.fields)
    endpoint = endpoints.get(reader.url)
    length = fields.get(b"content-length", b"")
    if (
        endpoint is None
        or parser.get_method() != b"POST"
        or parser.get_http_version() != "1.1"
        or len(fields) != len(reader.fields)
        or b"host" not in fields
        or fields.keys() & _NEVER_PLANNED
        or not length.isdigit()
        or len(length) > 12
        or fields.get(b"content-type") != safetensors_codec.media_type.encode()
        or fields.get(b"accept", b"*/*") not in (b"*/*", fields[b"content-type"])
    ):
        return None
    return Header(endpoint, fields, int(length))


class _HeaderReader:
    """Receives the parts of a header from httptools."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def _spans(message: Message) -> tuple[TensorSpan, ...]:
    """Return where the tensors of a message lie, one behind the other."""
    spans, offset = [], 0
    for name, tensor in message.tensors.items():
        spans.append(TensorSpan(name, tensor.dtype, tuple(tensor.shape), offset, tensor.nbytes))
        offset += tensor.nbytes
    return tuple(spans)


def _answer_tensors(call: Rotate | Attend) -> dict[str, torch.Tensor]:
    """Return tensors of the shapes and dtypes of the answer to a call, without numbers."""
    if isinstance(call, Rotate):
        tensors = {"q": call.q, "k": call.k}
        return {name: torch.empty_like(x) for name, x in tensors.items() if x is not None}
    shape, dtype = call.q.shape[:-1], call.out_dtype or call.q.dtype
    answer = {"out": torch.empty(*shape, call.v.shape[-1], dtype=dtype)}
    if call.return_lse:
        answer["lse"] = torch.empty(shape, dtype=torch.float32)
    return answer
