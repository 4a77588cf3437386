"""One JSON object a line, on standard output."""

import logging
import os
import sys

import orjson


class JsonFormatter(logging.Formatter):
    """Writes a record and the `fields` that came with it; nothing a client sends breaks a line."""

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


def write(fields: dict[str, object]) -> None:
    """Write a line straight to standard output: logging takes longer than a small rotation."""
    os.write(sys.stdout.fileno(), orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


def set_up(level: str) -> None:
    """Send all of the process's log to standard output, as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # grpcio's word for a client that left while it was answered, which is no error of anybody's
    left = "ExecuteBatchError"
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda line: left not in line.getMessage())
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)  # shown nowhere, so not looked up for each record
