"""Log lines on standard output: one JSON object per line, in ASCII."""

import json
import logging
import os
import select
import time
from collections.abc import Mapping
from contextlib import suppress

from service.observability.line_writer import LineWriter

STDOUT, STDERR = 1, 2
"""File descriptors of standard output and standard error."""

EXIT_S = 1.0
"""Seconds that the exit waits for a slow reader of the last lines."""

# escapes all characters outside of ASCII, for example those that change the text direction
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class JsonFormatter(logging.Formatter):
    """Formats a record and its `fields`. Clients cannot forge lines: JSON escapes line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


class LineHandler(logging.Handler):
    """Writes log records as lines."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self._writer.write([self.format(record) + "\n"])

    def flush(self) -> None:
        """Write the buffered lines, for at most EXIT_S; called at the end of the process."""
        self._writer.flush(EXIT_S)


def render_fields(fields: Mapping[str, object]) -> str:
    """Return fields of a line: a JSON object without its braces."""
    return _encode(fields)[1:-1]


def _describe_gap(num_dropped: int) -> str:
    """Return the line that states how many lines were dropped."""
    message = "log lines were dropped: standard output was full, closed, or read too slowly"
    line = {"time": time.time(), "level": "warning", "logger": "rope.logs", "message": message}
    return _encode({**line, "num_dropped": num_dropped}) + "\n"


def _report_failure(failure: OSError) -> None:
    """Say once on standard error that lines are lost; without waiting for its reader."""
    text = (
        f"rope-service: cannot write the log to standard output: {failure.strerror}; lines are "
        "lost until it can be written, and counted by rope_log_lines_dropped_total\n"
    )
    with suppress(OSError):
        writable = select.poll()
        writable.register(STDERR, select.POLLOUT)
        if writable.poll(0):
            os.write(STDERR, text.encode())


def set_up(level: str) -> None:
    """Send all of the process's log to standard output, as JSON."""
    handler = LineHandler(output)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)  # not in the lines, so not computed


output = LineWriter(STDOUT, _describe_gap, on_failure=_report_failure)
"""Standard output. Lines of requests bypass the logging module, which takes longer than a small
rotation."""
