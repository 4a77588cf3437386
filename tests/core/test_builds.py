"""Missing kernels are built by the call itself, or handed to a server."""

import threading

import pytest

from rope_core.builds import deferred_builds, ensure_built
from rope_core.errors import KernelNotBuilt


def test_a_call_builds_what_it_misses():
    built = []
    ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert built == ["a", "b"]


def test_deferred_builds_are_all_handed_over_before_the_call_raises():
    built, handed = [], {}
    with deferred_builds(handed.__setitem__), pytest.raises(KernelNotBuilt):
        ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert not built
    handed["b"]()
    assert built == ["b"]


def test_a_call_that_misses_nothing_goes_on():
    requested = []
    with deferred_builds(lambda key, build: requested.append(key)):
        ensure_built({})
    assert requested == []


def test_builds_of_other_threads_are_not_deferred():
    built = []
    with deferred_builds(lambda key, build: pytest.fail("this thread's alone")):
        other = threading.Thread(target=ensure_built, args=({"a": lambda: built.append("a")},))
        other.start()
        other.join()
    assert built == ["a"]


def test_after_the_block_calls_build_what_they_miss():
    built = []
    with pytest.raises(KernelNotBuilt), deferred_builds(lambda key, build: None):
        ensure_built({"a": lambda: built.append("a")})
    ensure_built({"a": lambda: built.append("a")})
    assert built == ["a"]
