"""Variants of kernels: found for what they were built for, built once, missed without harm."""

import json
import logging
import math
import os
import subprocess
import sys
import threading

import pytest
import torch

from rope_core import Merge, NoBackend, RopeConfig, Rotate, backends, merge, rotate
from rope_core.builds import deferred_builds
from rope_core.errors import KernelNotBuilt
from rope_core.kernels import launcher, rotary
from rope_core.kernels import merge as merging
from tests.conftest import ROOT
from tests.core.oracle import off, randn

ROPE = RopeConfig.of(16)
PATIENCE_S = 30


@pytest.fixture(autouse=True)
def kernels_are_missing(monkeypatch):
    for each in (rotary.LAUNCHER, merging.LAUNCHER):
        monkeypatch.setattr(each, "built", {})
        monkeypatch.setattr(each, "failed", {})


@pytest.fixture
def fused_is_a_candidate(monkeypatch, interpreted):
    """On the CPU, too: as if it were a GPU."""
    found = backends._candidates
    monkeypatch.setattr(backends, "_candidates", lambda known, _, name: found(known, "cuda", name))


class Builds(dict):
    """What a server was handed, to be built when a test says so."""

    def __call__(self, key, build):
        self[key] = build

    def build(self):
        for build in self.values():
            build()
        self.clear()


@pytest.fixture
def builds():
    handed = Builds()
    with deferred_builds(handed):
        yield handed


@pytest.fixture
def compiles(monkeypatch):
    """Count what is compiled."""
    found, compiled = [], launcher.Launcher._compile

    def count(self, variant):
        found.append(variant)
        return compiled(self, variant)

    monkeypatch.setattr(launcher.Launcher, "_compile", count)
    return found


def rotation(**more):
    return Rotate(randn(3, 4, 16), randn(3, 2, 16, seed=1), ROPE, torch.tensor([5, 0, 70]), **more)


def tables():
    """Return a rotation whose angles are a table's, for kernels too."""
    call = rotation()
    return Rotate(call.q, call.k, RopeConfig.of(16, arithmetic="hf"), call.positions)


def parts():
    return Merge(randn(3, 5, 16), randn(3, 5, seed=1))


@pytest.mark.parametrize("call", [rotation(), rotation(inverse=True), tables()])
@pytest.mark.usefixtures("fused_is_a_candidate")
def test_a_rotation_whose_kernel_is_missing_is_done_otherwise_until_it_is_built(call, builds):
    meanwhile, expected = rotate(call), rotate(call, backend="eager")
    assert meanwhile.backend == "eager"
    assert off(meanwhile.q, expected.q.double()) <= 2e-7
    assert off(meanwhile.k, expected.k.double()) <= 2e-7
    assert len(builds) == 1
    builds.build()
    then = rotate(call)
    assert then.backend == "fused"
    assert not builds
    assert off(then.q, expected.q.double()) <= 2e-7


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_a_rotation_in_place_that_misses_its_kernel_is_done_once(builds):
    call = rotation()
    expected = rotate(call, backend="eager")
    assert rotate(call, out=call).backend == "eager"
    assert builds
    assert off(call.q, expected.q.double()) <= 2e-7
    assert off(call.k, expected.k.double()) <= 2e-7


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_merging_goes_on_with_another_backend(builds):
    assert merge(parts()).backend == "eager"
    builds.build()
    assert merge(parts()).backend == "fused"


@pytest.mark.usefixtures("interpreted")
def test_a_call_that_names_the_backend_is_told_that_it_is_not_ready(builds):
    for done in (lambda: rotate(rotation(), backend="fused"), lambda: merge(parts(), "fused")):
        with pytest.raises(KernelNotBuilt):
            done()
        builds.build()
        assert done().backend == "fused"


@pytest.mark.usefixtures("interpreted")
def test_nothing_is_launched_where_one_kernel_is_missing(builds):
    xs = [randn(3, 1, 16) for _ in range(3)]  # two and one: two kernels
    outs = [torch.full_like(x, math.nan) for x in xs]
    table = torch.ones(3, 8), torch.zeros(3, 8)
    how = {"rotary_dim": 16, "layout": "half"}
    xs[2] = randn(3, 8, 16)
    outs[2] = torch.full_like(xs[2], math.nan)
    with pytest.raises(KernelNotBuilt):
        rotary.rotate(xs, outs, *table, **how)
    assert len(builds) == 2, "both are handed over at once"
    key, build = builds.popitem()
    build()
    with pytest.raises(KernelNotBuilt):
        rotary.rotate(xs, outs, *table, **how)
    assert key not in builds
    assert all(out.isnan().all() for out in outs)
    builds.build()
    rotary.rotate(xs, outs, *table, **how)
    assert all(torch.equal(out, x) for out, x in zip(outs, xs, strict=True))


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_a_kernel_that_cannot_be_built_is_declined_for_good(monkeypatch, caplog):
    tries = []

    def fail(self, variant):
        tries.append(variant)
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(launcher.Launcher, "_compile", fail)
    call = rotation()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert rotate(call).backend == "eager"
    assert len(tries) == 1
    assert sum("no such instruction" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(NoBackend, match=r"fused: .* cannot be built: no such instruction"):
        rotate(call, backend="fused")
    handed = Builds()
    with deferred_builds(handed):
        assert rotate(call).backend == "eager"
    assert not handed, "nobody is asked to build it again"


@pytest.mark.usefixtures("interpreted")
def test_a_kernel_that_found_no_memory_is_tried_again(monkeypatch):
    compiled = launcher.Launcher._compile

    def fail(self, variant):
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    monkeypatch.setattr(launcher.Launcher, "_compile", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        rotate(rotation(), backend="fused")
    monkeypatch.setattr(launcher.Launcher, "_compile", compiled)
    assert rotate(rotation(), backend="fused").backend == "fused"


@pytest.mark.usefixtures("interpreted")
def test_threads_build_one_at_a_time_and_each_variant_once(monkeypatch):
    compiled, begun, go = [], threading.Event(), threading.Event()

    def slow(self, variant):
        begun.set()
        assert not compiled, "built again, or beside another"
        assert go.wait(PATIENCE_S)
        compiled.append(variant)
        return lambda *args: None

    monkeypatch.setattr(launcher.Launcher, "_compile", slow)
    handed = Builds()
    with deferred_builds(handed), pytest.raises(KernelNotBuilt):
        rotate(rotation(), backend="fused")
    ((variant, build),) = handed.items()
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(PATIENCE_S)
    assert not rotary.LAUNCHER.built, "calls meanwhile do not take it"
    go.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert compiled == [variant]


@pytest.mark.usefixtures("interpreted")
def test_numbers_are_no_part_of_a_variant(compiles):
    for tokens in (1, 2, 16, 33):
        x = randn(tokens, 4, 16)
        for dtype in (torch.int64, torch.int32):
            for inverse in (False, True):
                call = Rotate(x, None, ROPE, torch.arange(tokens, dtype=dtype), inverse=inverse)
                rotate(call, backend="fused")
    assert len(compiles) == 1


@pytest.mark.parametrize(
    ("rope", "text"),
    [
        (RopeConfig.of(24), "heads are 24 wide"),
        (RopeConfig.of(272), "heads are 272 wide"),
        (RopeConfig.of(32, rotary_dim=30), "30 elements of a head turn"),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_odd_widths_have_no_kernels(rope, text):
    """So that clients cannot have kernels built without end."""
    with pytest.raises(NoBackend, match=text):
        rotate(Rotate(randn(2, 1, rope.head_dim), None, rope), backend="fused")


def run(module):
    """Return the lines that a script prints where kernels are compiled."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.{module}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.splitlines()
    return [*map(json.loads, printed)]


def test_variants_are_what_triton_would_compile_or_assume_less():
    compared = run("variants")
    assert len(compared) > 200
    for pair in compared:
        ours, tritons = pair["ours"], pair["triton"]
        for what in ("signature", "constants", "options"):
            assert ours[what] == tritons[what]
        assert {*ours["aligned"]} <= {*tritons["aligned"]}
    unaligned = [pair["ours"]["aligned"] == [] for pair in compared]
    assert any(unaligned)
    assert not all(unaligned)
