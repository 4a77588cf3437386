"""Variants of kernels: the key, building once, failures, the limit."""

import logging
import threading

import pytest
import torch

from rope_core import NoBackend, Rotate, rotate
from rope_core.builds import deferred_builds
from rope_core.errors import KernelFailed, KernelNotBuilt
from rope_core.kernels import launcher, rotary
from tests.core.oracle import randn
from tests.kernels.missing_kernels import ROPE, Builds, rotation, tables

TIMEOUT_S = 30

pytestmark = pytest.mark.usefixtures("missing_kernels")


@pytest.fixture
def compiles(monkeypatch):
    """Count what is compiled."""
    loaded, load_variant = [], launcher.load_variant

    def count(kernel, variant):
        loaded.append(variant)
        return load_variant(kernel, variant)

    monkeypatch.setattr(launcher, "load_variant", count)
    return loaded


@pytest.mark.usefixtures("fused_on_cpu")
def test_a_kernel_that_cannot_be_built_is_not_built_again(monkeypatch, caplog):
    tries = []

    def fail(kernel, variant):
        tries.append(variant)
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(launcher, "load_variant", fail)
    call = rotation()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert rotate(call).backend == "eager"
    assert len(tries) == 1
    assert sum("no such instruction" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(NoBackend, match=r"fused: .* cannot be built: no such instruction"):
        rotate(call, backend="fused")
    queue = Builds()
    with deferred_builds(queue):
        assert rotate(call).backend == "eager"
    assert not queue, "no second build"


@pytest.mark.usefixtures("fused_on_cpu")
def test_a_deferred_build_that_fails_raises_in_the_builder(monkeypatch, builds):
    monkeypatch.setattr(launcher, "load_variant", lambda *_: 1 / 0)
    assert rotate(rotation()).backend == "eager"
    ((_, build),) = builds.items()
    for _ in range(2):
        with pytest.raises(KernelFailed, match="division by zero"):
            build()
    builds.clear()
    assert rotate(rotation()).backend == "eager"
    assert not builds


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (RuntimeError("Triton Error [CUDA]: out of memory"), RuntimeError),
        (OSError(28, "No space left on device"), NoBackend),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_a_build_that_lacks_memory_or_disk_is_tried_again(monkeypatch, failure, raised):
    def fail(kernel, variant):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "load_variant", fail)
        with pytest.raises(raised, match=failure.args[-1].partition(": ")[2] or "No space left"):
            rotate(rotation(), backend="fused")
    assert rotate(rotation(), backend="fused").backend == "fused"


@pytest.mark.usefixtures("interpreted")
def test_threads_build_one_at_a_time_and_each_variant_once(monkeypatch):
    compiled, started, go = [], threading.Event(), threading.Event()

    def slow(kernel, variant):
        started.set()
        assert not compiled, "built again, or beside another"
        assert go.wait(TIMEOUT_S)
        compiled.append(variant)
        return lambda *args: None

    monkeypatch.setattr(launcher, "load_variant", slow)
    queue = Builds()
    with deferred_builds(queue), pytest.raises(KernelNotBuilt):
        rotate(rotation(), backend="fused")
    ((variant, build),) = queue.items()
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(TIMEOUT_S)
    assert not rotary.LAUNCHER.built, "not before the build has ended"
    go.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert compiled == [variant]


@pytest.mark.usefixtures("interpreted")
def test_numbers_are_not_part_of_a_variant(compiles):
    for tokens in (1, 2, 16, 33):
        x = randn(tokens, 4, 16)
        for dtype in (torch.int64, torch.int32):
            for inverse in (False, True):
                call = Rotate(x, None, ROPE, torch.arange(tokens, dtype=dtype), inverse=inverse)
                rotate(call, backend="fused")
    assert len(compiles) == 1


@pytest.mark.usefixtures("fused_on_cpu")
def test_the_number_of_variants_is_bounded(monkeypatch, builds):
    monkeypatch.setattr(launcher, "MAX_VARIANTS", 1)
    rotate(rotation())
    builds.build()
    assert rotate(rotation()).backend == "fused"
    assert rotate(tables()).backend == "eager"
    assert not builds
    assert rotate(rotation()).backend == "fused"
