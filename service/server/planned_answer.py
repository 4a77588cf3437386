"""Answers to planned requests: as bytes, and sent without a copy."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from service.asgi import io
from service.asgi.io import Headers
from service.asgi.problems import ErrorAnswer
from service.batching.run import Completed
from service.errors import Overloaded, QuotaExceeded
from service.planned.header import NO_IDENTIFIERS
from service.planned.plan import AnswerFormat, Parts, PlannedEntry, answer_parts
from service.planned.planner import Match
from service.server.planned_requests import PlannedRequests, render_headers
from service.wire import Buffer

_RESPONSE = b"%b%bx-request-id: %b\r\n%b\r\n%b"
"""Start of the response, lines of headers, request identifier, `Connection` or nothing, body."""


def render_answer(
    planned: PlannedRequests,
    entry: PlannedEntry,
    outcome: Completed[Any] | Exception,
    default_headers: Headers,
    *,
    closes: bool,
) -> tuple[int, list[Buffer]]:
    """Return the status and the parts of an answer.

    Args:
        planned: renders the start of responses.
        entry: the request.
        outcome: the result, or the error.
        default_headers: the server's own headers.
        closes: whether the connection is closed after the answer.
    """
    answer_format = entry.call.plan.answer_format
    parts: Parts = ()
    if isinstance(outcome, Exception):
        answer = answer_format.describe_failure(outcome)
        status, preamble = answer.status, answer.body
        header_lines = render_headers(answer.headers)
        entry.failure = {**answer.log_fields, **entry.call.plan.log_fields}
    else:
        result = outcome.result
        try:
            parts = answer_parts(result)
        except Exception as failure:
            return render_answer(planned, entry, failure, default_headers, closes=closes)
        status, header_lines, preamble = 200, answer_format.header_lines, answer_format.preamble
        if entry.message_id and answer_format.with_id is not None:
            header_lines, preamble = answer_format.with_id(entry.message_id)
        run = io.render_run(outcome.copy_s, outcome.compute_s, result.backend)
        # the value of `io.server_timing`, without its call
        timing = io.TIMING % (outcome.queue_s * 1e3, run)
        header_lines += b"server-timing: %b\r\n" % timing
    if status == 200 and default_headers is planned.default_headers:
        start = planned.start_of_success
    else:
        start = planned.start_of_response(status, default_headers)
    header = _RESPONSE % (
        start,
        header_lines,
        entry.request_id.encode(),
        b"connection: close\r\n" if closes else b"",
        preamble,
    )
    return status, [header, *parts]


def render_refusal(
    planned: PlannedRequests,
    answer_format: AnswerFormat,
    match: Match | None,
    refusal: Overloaded | QuotaExceeded,
    default_headers: Headers,
    *,
    closes: bool,
) -> tuple[ErrorAnswer, bytes, str, Mapping[bytes, bytes]]:
    """Return a refusal, its bytes, and the identifiers of the request.

    Args:
        planned: renders the start of responses.
        answer_format: of the request's plan.
        match: match of the request; None if the header is that of its plan.
        refusal: the error.
        default_headers: the server's own headers.
        closes: whether the connection is closed after the refusal.
    """
    kind: Callable[[str, int], Exception] = type(refusal)
    answer, header_lines = _render_failure(
        answer_format.describe_failure, kind, str(refusal), refusal.retry_after_s
    )
    identifiers = NO_IDENTIFIERS if match is None else match.identifiers
    request_id = planned.request_id(identifiers)
    start = planned.start_of_response(answer.status, default_headers)
    response = _RESPONSE % (
        start,
        header_lines,
        request_id.encode(),
        b"connection: close\r\n" if closes else b"",
        answer.body,
    )
    return answer, response, request_id, identifiers


@lru_cache(maxsize=64)
def _render_failure(
    describe: Callable[[Exception], ErrorAnswer],
    kind: Callable[[str, int], Exception],
    text: str,
    retry_after_s: int,
) -> tuple[ErrorAnswer, bytes]:
    """Return a refusal and the lines of its headers."""
    answer = describe(kind(text, retry_after_s))
    return answer, render_headers(answer.headers)


def send(transport: asyncio.Transport, fd: int, parts: Sequence[Buffer]) -> bool:
    """Send parts; return whether the kernel has all. If not, `resume_writing` is called later.

    Parts that the kernel does not take are not copied: their memory must not change until then.

    Args:
        transport: of the connection.
        fd: file descriptor of its socket; -1 if the transport encrypts.
        parts: parts of one response.
    """
    if fd < 0:
        transport.writelines(parts)
        if not transport.get_write_buffer_size():
            return True
        transport.set_write_buffer_limits(high=0)
        return False
    num_sent = 0
    if not transport.get_write_buffer_size():
        try:
            num_sent = os.writev(fd, parts)
        except BlockingIOError:
            pass
        except OSError:
            transport.abort()
            return True
        if num_sent == sum(map(len, parts)):
            return True
    transport.set_write_buffer_limits(high=0)
    for part in parts:
        if num_sent < len(part):
            transport.write(memoryview(part)[num_sent:])
            num_sent = 0
        else:
            num_sent -= len(part)
    return not transport.get_write_buffer_size()
