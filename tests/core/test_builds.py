"""Who builds a missing kernel: the call itself, or a server that was told of it."""

import threading

import pytest

from rope_core.builds import deferred_builds, ensure_built
from rope_core.errors import KernelNotBuilt


def test_a_call_builds_what_it_misses():
    built = []
    ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert built == ["a", "b"]


def test_deferred_builds_are_handed_over_all_at_once_and_the_call_is_told():
    built, handed = [], {}
    with deferred_builds(handed.__setitem__), pytest.raises(KernelNotBuilt):
        ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert not built
    handed["b"]()
    assert built == ["b"]


def test_a_call_that_misses_nothing_goes_on():
    with deferred_builds(lambda key, build: pytest.fail("nothing is missing")):
        ensure_built({})


def test_other_threads_are_not_concerned():
    built = []
    with deferred_builds(lambda key, build: pytest.fail("this thread's alone")):
        other = threading.Thread(target=ensure_built, args=({"a": lambda: built.append("a")},))
        other.start()
        other.join()
    assert built == ["a"]


def test_after_the_block_builds_are_the_calls_own_again():
    built = []
    with pytest.raises(KernelNotBuilt), deferred_builds(lambda key, build: None):
        ensure_built({"a": lambda: built.append("a")})
    ensure_built({"a": lambda: built.append("a")})
    assert built == ["a"]
