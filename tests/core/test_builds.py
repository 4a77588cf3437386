"""Missing kernels are built by the call itself, or queue to a server."""

import threading

import pytest

from rope_core.builds import deferred_builds, ensure_built
from rope_core.errors import KernelNotBuilt


def test_a_call_builds_its_missing_kernels():
    built = []
    ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert built == ["a", "b"]


def test_deferred_builds_are_all_handed_over_before_the_call_raises():
    built, queue = [], {}
    with deferred_builds(queue.__setitem__), pytest.raises(KernelNotBuilt):
        ensure_built({"a": lambda: built.append("a"), "b": lambda: built.append("b")})
    assert not built
    queue["b"]()
    assert built == ["b"]


def test_a_call_without_missing_kernels_continues():
    requested = []
    with deferred_builds(lambda key, build: requested.append(key)):
        ensure_built({})
    assert requested == []


def test_builds_of_other_threads_are_not_deferred():
    built = []
    with deferred_builds(lambda key, build: pytest.fail("only builds of this thread are deferred")):
        other = threading.Thread(target=ensure_built, args=({"a": lambda: built.append("a")},))
        other.start()
        other.join()
    assert built == ["a"]


def test_after_the_block_calls_build_missing_kernels():
    built = []
    with pytest.raises(KernelNotBuilt), deferred_builds(lambda key, build: None):
        ensure_built({"a": lambda: built.append("a")})
    ensure_built({"a": lambda: built.append("a")})
    assert built == ["a"]
