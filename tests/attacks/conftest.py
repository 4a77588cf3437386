"""One service for all rows of a file."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.attacks.requests import MAX_JSON_BYTES
from tests.attacks.watched_service import WatchedService
from tests.conftest import Serve


@pytest.fixture(scope="package")
def attacked(serve: Serve) -> Iterator[WatchedService]:
    limits = {"ROPE_MAX_JSON_BYTES": MAX_JSON_BYTES, "ROPE_MAX_BODY_BYTES": 4 * MAX_JSON_BYTES}
    variables = {name: str(value) for name, value in limits.items()}
    variables["ROPE_THREADS"] = "2"  # estimates of time depend on it
    with serve(**variables) as started, ExitStack() as clients:
        yield WatchedService(started, clients)
    check_log(serve.last_log())


def check_log(text: str) -> None:
    """Check that no failure was logged, and that no client could forge a line."""
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    for line in map(json.loads, text.splitlines()):
        refused = isinstance(line.get("status"), int) and line["status"] > 500
        assert line["level"] == ("warning" if refused else "info"), line
        assert line.get("status") != 500, line
        assert len(line.get("detail", "")) <= 1024
        assert "exception" not in line, line
        assert line["message"] != "forged"
        assert len(line.get("path", "")) <= 128
