"""Sessions over HTTP and WebSocket against lists, with repeats and lost answers."""

import os
from functools import partial

import pytest

from tests.kvcache_oracle.http import http_driver
from tests.kvcache_oracle.judge import Errors, check_program
from tests.kvcache_oracle.websocket import websocket_driver

NUM_PROGRAMS = int(os.environ.get("SESSIONS_PROGRAMS", "24"))
GROUPS = 4


@pytest.mark.parametrize("group", range(GROUPS))
def test_programs_over_http(open_service: str, group: int) -> None:
    errors = Errors()
    for seed in range(group, NUM_PROGRAMS, GROUPS):
        check_program(seed, partial(http_driver, open_service), is_wire=True, errors=errors)
    errors.check()


@pytest.mark.parametrize("group", range(GROUPS))
def test_programs_over_a_websocket(open_service: str, group: int) -> None:
    errors = Errors()
    for seed in range(group, NUM_PROGRAMS, GROUPS):
        check_program(
            5000 + seed, partial(websocket_driver, open_service), is_wire=True, errors=errors
        )
    errors.check()
