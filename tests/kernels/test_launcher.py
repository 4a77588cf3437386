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

from rope_core import (
    Attend,
    AttentionConfig,
    Merge,
    NoBackend,
    RopeConfig,
    Rotate,
    attend,
    merge,
    rotate,
)
from rope_core.backends import fused
from rope_core.builds import deferred_builds
from rope_core.errors import KernelFailed, KernelNotBuilt
from rope_core.hf import resolve
from rope_core.kernels import attention as attention_kernels
from rope_core.kernels import decode, launcher, prefill, rotary, split_kv
from rope_core.kernels import merge as merging
from rope_core.presets import built_in
from tests.conftest import ROOT
from tests.core.oracle import off, randn

ROPE = RopeConfig.of(16)
PATIENCE_S = 30


@pytest.fixture(autouse=True)
def kernels_are_missing(monkeypatch):
    for module in (rotary, merging, decode, prefill, split_kv):
        each = module.LAUNCHER
        monkeypatch.setattr(each, "built", {})
        monkeypatch.setattr(each, "failed", {})


@pytest.fixture
def fused_is_a_candidate(monkeypatch, interpreted):
    """Run on the CPU as on a GPU."""
    monkeypatch.setattr(fused, "only_named", lambda device: False)


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
    found, compiled = [], launcher.Launcher._load

    def count(self, variant):
        found.append(variant)
        return compiled(self, variant)

    monkeypatch.setattr(launcher.Launcher, "_load", count)
    return found


def rotation(**more):
    return Rotate(randn(3, 4, 16), randn(3, 2, 16, seed=1), ROPE, torch.tensor([5, 0, 70]), **more)


def tables():
    """Return a rotation whose angles are a table's, for kernels too."""
    call = rotation()
    return Rotate(call.q, call.k, RopeConfig.of(16, arithmetic="hf"), call.positions)


def attention(**more):
    """Return what two kernels do: attention in parts of the keys, and their merging."""
    return Attend(randn(1, 4, 16), randn(9, 2, 16, seed=1), randn(9, 2, 16, seed=2), None, **more)


def parts():
    return Merge(randn(3, 5, 16), randn(3, 5, seed=1))


@pytest.mark.parametrize("call", [rotation(), rotation(inverse=True), tables()])
@pytest.mark.usefixtures("fused_is_a_candidate")
def test_eager_rotates_until_the_missing_kernel_is_built(call, builds):
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


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_attention_goes_on_with_another_backend_until_all_its_kernels_are_built(builds):
    call = attention(attention=AttentionConfig(softcap=5.0))  # which sdpa leaves to others
    expected = attend(call, "eager").out.double()
    assert attend(call).backend == "eager"
    assert len(builds) == 2, "both are handed over at once"
    _, build = builds.popitem()
    build()
    assert attend(call).backend == "eager"
    builds.build()
    then = attend(call)
    assert then.backend == "fused"
    assert off(then.out, expected) <= 1e-6


@pytest.mark.usefixtures("interpreted")
def test_attention_writes_nothing_where_one_kernel_is_missing(builds):
    q, k = randn(2, 4, 16), randn(9, 2, 16)
    out, lse = torch.full_like(q, math.nan), torch.full((2, 4), math.nan)

    def run():
        lengths = {"lengths_q": (1, 1), "lengths_k": (4, 5)}
        attention_kernels.attend(q, k, k, out, lse, **lengths, scale=1.0, causal=True)

    for left in (2, 1):
        with pytest.raises(KernelNotBuilt):
            run()
        assert len(builds) == left
        _, build = builds.popitem()
        build()
        builds.clear()
        assert out.isnan().all()
        assert lse.isnan().all()
    run()
    assert not out.isnan().any()


@pytest.mark.usefixtures("interpreted")
def test_a_call_that_names_fused_raises_until_its_kernel_is_built(builds):
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

    monkeypatch.setattr(launcher.Launcher, "_load", fail)
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


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_a_deferred_build_that_fails_raises_in_the_builder(monkeypatch, builds):
    monkeypatch.setattr(launcher.Launcher, "_load", lambda *_: 1 / 0)
    assert rotate(rotation()).backend == "eager"
    ((_, build),) = builds.items()
    for _ in range(2):
        with pytest.raises(KernelFailed, match="division by zero"):
            build()
    builds.clear()
    assert rotate(rotation()).backend == "eager"
    assert not builds


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (RuntimeError("Triton Error [CUDA]: out of memory"), RuntimeError),
        (OSError(28, "No space left on device"), NoBackend),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_a_build_that_lacks_memory_or_disk_is_tried_again(monkeypatch, failure, told):
    def fail(self, variant):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(launcher.Launcher, "_load", fail)
        with pytest.raises(told, match=failure.args[-1].partition(": ")[2] or "No space left"):
            rotate(rotation(), backend="fused")
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

    monkeypatch.setattr(launcher.Launcher, "_load", slow)
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
        (RopeConfig.of(32, rotary_dim=30), "30 of 32 elements turn"),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_odd_widths_have_no_kernels(rope, text):
    """So that clients cannot have kernels built without end."""
    with pytest.raises(NoBackend, match=text):
        rotate(Rotate(randn(2, 1, rope.head_dim), None, rope), backend="fused")


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_parts_of_odd_widths_have_no_kernels(builds):
    """A kernel for 65,536 elements takes 16 s to compile, and one for 10^6 never ended."""
    for width in (17, 65_536):
        odd = Merge(randn(2, 1, width), randn(2, 1))
        assert merge(odd).backend == "eager"
        with pytest.raises(NoBackend, match=f"no kernels for heads of width {width}"):
            merge(odd, backend="fused")
    assert not builds


def test_widths_of_all_presets_have_kernels():
    ropes = {name: resolve(preset.config, layer=0).rope for name, preset in built_in().items()}
    widths = {name: (rope.head_dim, rope.rotary_dim) for name, rope in ropes.items() if rope}
    assert {name for name, each in widths.items() if fused._why_not_width(*each)} == set()
    assert len(widths) > 80


@pytest.mark.usefixtures("fused_is_a_candidate")
def test_clients_cannot_have_variants_built_without_end(monkeypatch, builds):
    monkeypatch.setattr(launcher, "MAX_VARIANTS", 1)
    rotate(rotation())
    builds.build()
    assert rotate(rotation()).backend == "fused"
    assert rotate(tables()).backend == "eager"
    assert not builds
    assert rotate(rotation()).backend == "fused"


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
    assert len(compared) > 500
    for pair in compared:
        ours, tritons = pair["ours"], pair["triton"]
        for what in ("signature", "constants", "options"):
            assert ours[what] == tritons[what]
        assert {*ours["aligned"]} <= {*tritons["aligned"]}
    unaligned = [pair["ours"]["aligned"] == [] for pair in compared]
    assert any(unaligned)
    assert not all(unaligned)


def test_kernels_are_built_for_a_gpu_that_is_not_there():
    rotation, merging, too_large = run("prebuilt")
    for first, second in (rotation, merging):
        assert first.startswith("KernelNotBuilt"), "built, but not launched"
        assert second == "fused"
    for told in too_large:
        assert told.startswith("NoBackend: backend fused: rotary_kernel cannot be built: ")
        assert "shared memory" in told, "more than this GPU has"
