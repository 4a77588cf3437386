"""Messages of session streams: requests are parsed, answers and problems are encoded."""

from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from rope_core import ConfigError
from service.asgi.problems import problem_for
from service.errors import BadMessage, UnknownName
from service.sessions import paths
from service.sessions.running.answer import SessionAnswer
from service.wire import Buffer, Message, Parameters, params_key, safetensors_codec

GUARDED = frozenset(("append", "step", "truncate"))
"""Operations that must have `expected_length`: a client cannot know how far its messages came when
the stream breaks."""

OPERATIONS = frozenset((*paths.OPERATIONS, "inspect"))

MAX_HEADER_BYTES = 2**18
"""Longest header of a message. It is parsed on the event loop: messages keep their order."""

MAX_SEQ = 2**63 - 1

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses whose problems say when the client may try again."""


class StreamRequest(NamedTuple):
    """A message, parsed."""

    session_id: str
    operation: str
    timeout_s: float | None
    message: Message


def read_request(data: Buffer, path_id: str | None, named: dict[str, Any]) -> StreamRequest:
    """Parse a message.

    Args:
        data: the message.
        path_id: the session of the path; None: the message names its session.
        named: gets `seq` and `op`, which the answer repeats, as soon as they are known.

    Raises:
        BadMessage, BadTensor: the message cannot be read.
        ConfigError, UnknownName: a parameter is missing or has another value than it may have.
    """
    size = safetensors_codec.long_text_bytes(data)
    if size > MAX_HEADER_BYTES:
        raise BadMessage(
            f"the header of a message may be at most {MAX_HEADER_BYTES:,} bytes, got {size:,}"
        )
    message = safetensors_codec.decode(data, is_repeated=False).message
    values = {**message.params.values}
    seq = values.pop("seq", None)
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise ConfigError("seq", "a whole number from 0 to 2**63 - 1", _shown(seq))
    named["seq"] = seq
    operation = values.pop("op", None)
    if not isinstance(operation, str):
        raise ConfigError("op", "the name of an operation", _shown(operation))
    if operation not in OPERATIONS:
        raise UnknownName("operation", operation, sorted(OPERATIONS))
    named["op"] = operation
    session_id = _session_id(path_id, values.pop("session", None))
    timeout_ms = values.pop("timeout_ms", None)
    if timeout_ms is not None and (type(timeout_ms) is not int or timeout_ms < 1):
        raise ConfigError("timeout_ms", "whole milliseconds, at least 1", _shown(timeout_ms))
    if operation in GUARDED and values.get("expected_length") is None:
        raise ConfigError("expected_length", f"given for {operation} over a stream", "none")
    try:
        params = Parameters(values, params_key(values))
    except orjson.JSONEncodeError:
        raise BadMessage("parameters are nested too deep") from None
    timeout_s = None if timeout_ms is None else timeout_ms / 1e3
    return StreamRequest(session_id, operation, timeout_s, Message(message.tensors, params))


def encode_answer(answer: SessionAnswer, named: dict[str, Any]) -> bytes:
    """Return the body of an answer, with the number and the operation of its message."""
    members = answer.message.params.key[1:-1].strip()
    key = b'{"seq":%d,"op":"%b"%b%b}' % (
        named["seq"],
        named["op"].encode(),
        b"," if members else b"",
        members,
    )
    params = Parameters({}, key)
    return b"".join(safetensors_codec.encode(Message(answer.message.tensors, params)))


def encode_failure(failure: Exception, named: dict[str, Any]) -> bytes:
    """Return the text of the problem document for a failure."""
    problem = problem_for(failure)
    document = problem.as_dict() | named
    if problem.status in _BUSY:
        document["retry_after_s"] = getattr(failure, "retry_after_s", 1)
    return orjson.dumps(document)


def _session_id(path_id: str | None, named_id: Any) -> str:
    """Return the id of a message's session.

    Raises:
        ConfigError: the message names none, or another one than the path.
    """
    if named_id is None and path_id is not None:
        return path_id
    if not isinstance(named_id, str):
        raise ConfigError("session", "the id of a session", _shown(named_id))
    if path_id not in (None, named_id):
        expected = "the session of the path; the stream of /v1/stream takes all sessions"
        raise ConfigError("session", expected, "another one")
    return named_id


def _shown(value: Any) -> str:
    """Return the kind of a value: values may be long, or be ids of sessions."""
    return "none" if value is None else f"another value ({type(value).__name__})"
