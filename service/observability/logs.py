"""Log lines on standard output, one JSON object each."""

import logging
import os
import select
import sys
from collections.abc import Iterable, Mapping

import orjson


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
        return orjson.dumps(line, default=str).decode()


def render_fields(fields: Mapping[str, object]) -> str:
    """Return fields of a line: a JSON object without its braces."""
    return orjson.dumps(fields)[1:-1].decode()


def write(lines: Iterable[str]) -> None:
    """Write ended lines without the logging module, which takes longer than a small rotation.

    A pipe may divide a longer text than PIPE_BUF, or mix it with that of another thread.
    """
    output, text = sys.stdout.fileno(), "".join(lines).encode()
    while len(text) > select.PIPE_BUF:
        end = text.rfind(b"\n", 0, select.PIPE_BUF) + 1 or len(text)
        os.write(output, text[:end])
        text = text[end:]
    if text:
        os.write(output, text)


def set_up(level: str) -> None:
    """Send all of the process's log to standard output, as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)  # not in the lines, so not computed
