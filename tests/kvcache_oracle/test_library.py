"""Caches of the library against lists of tokens, in random programs."""

import os
from functools import partial

import pytest

from tests.kvcache_oracle.judge import Errors, check_program
from tests.kvcache_oracle.library import library_driver

NUM_PROGRAMS = int(os.environ.get("SESSIONS_PROGRAMS", "60"))
GROUPS = 6


@pytest.mark.parametrize("group", range(GROUPS))
def test_programs_agree_with_lists(group: int) -> None:
    errors = Errors()
    for seed in range(group, NUM_PROGRAMS, GROUPS):
        page_tokens = (4, 4, 4, 1, 16, 64)[seed % 6]
        drivers = partial(library_driver, page_tokens)
        check_program(seed, drivers, is_wire=False, errors=errors)
    errors.check()


@pytest.mark.parametrize("seed", range(3))
def test_programs_on_a_named_backend(seed: int) -> None:
    check_program(1000 + seed, partial(library_driver, 4, "eager"), is_wire=False)
