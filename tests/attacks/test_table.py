"""Every row of the table of malformed requests, as bytes over a socket.

After each row the service is live, and rotates correctly with a plan and without a plan.
"""

import json
import re

import pytest

from tests.attacks.requests import Row
from tests.attacks.sockets import LAST, exchange
from tests.attacks.table import NUM_ROWS, ROWS
from tests.attacks.watched_service import LEAK, WatchedService
from tests.waiting import wait_until

ELSEWHERE = {"F26", "F31"}
"""Rows that need more than one request: they are in `test_order.py`."""

MAX_GROWTH = 160 * 2**20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row(attacked: WatchedService, row: Row):
    request = row.request if isinstance(row.request, bytes) else row.request()
    answers = exchange(attacked.started, request + LAST)
    attacked.check()
    if row.status is None:
        assert answers == []
        return
    first, *rest = answers
    assert first.status == row.status, first
    assert [answer.status for answer in rest] == ([] if row.closes else [404])
    assert (first.headers.get("connection") == "close") == row.closes
    assert row.headers.items() <= first.headers.items(), first.headers
    assert re.fullmatch("[A-Za-z0-9._-]{1,64}", first.headers["x-request-id"])
    assert not any(name.startswith("access-control") for name in first.headers)
    if row.status == 200:
        return
    assert not LEAK.search(first.body), first.body
    assert len(first.body) <= 4096
    problem = json.loads(first.body)
    assert problem["error"].isprintable()
    assert problem.get("code", "") == row.code
    assert (row.status == 503) == ("retry-after" in first.headers)


def test_every_row_of_the_table_is_there():
    expected = {
        f"{section}{n:02}" for section, count in NUM_ROWS.items() for n in range(1, count + 1)
    }
    found = {row.id.partition(" ")[0] for row in ROWS}
    assert expected - found == ELSEWHERE
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_the_rows_leave_no_memory_descriptors_or_series(attacked: WatchedService):
    """Must be the last test of this file. The log is checked when the service ends."""
    wait_until(lambda: attacked.admitted_bytes() == 0)
    wait_until(lambda: attacked.num_descriptors() <= attacked.descriptors_before)
    metrics = attacked.metrics()
    assert metrics.count("\n") <= attacked.metrics_before.count("\n") + 200
    assert attacked.resident_bytes() <= attacked.resident_before + MAX_GROWTH
    for text in ("evil", "attacked", "passwd", "forged", "aaaa", "bbbb", "\U0001f600", "\u202e"):
        assert text not in metrics
    assert 'status="500"' not in metrics
