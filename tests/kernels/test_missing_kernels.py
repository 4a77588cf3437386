"""A call whose kernels are not built goes to another backend, or raises before any launch."""

import math

import pytest
import torch

from rope_core import AttentionConfig, attend, merge, rotate
from rope_core.errors import KernelNotBuilt
from rope_core.kernels import attention as attention_kernels
from rope_core.kernels import rotary
from tests.core.oracle import off, randn
from tests.kernels.missing_kernels import attention, parts, rotation, tables

pytestmark = pytest.mark.usefixtures("missing_kernels")


@pytest.mark.parametrize("call", [rotation(), rotation(inverse=True), tables()])
@pytest.mark.usefixtures("fused_on_cpu")
def test_eager_rotates_until_the_kernel_is_built(call, builds):
    before, expected = rotate(call), rotate(call, backend="eager")
    assert before.backend == "eager"
    assert off(before.q, expected.q.double()) <= 2e-7
    assert off(before.k, expected.k.double()) <= 2e-7
    assert len(builds) == 1
    builds.build()
    after = rotate(call)
    assert after.backend == "fused"
    assert not builds
    assert off(after.q, expected.q.double()) <= 2e-7


@pytest.mark.usefixtures("fused_on_cpu")
def test_a_rotation_in_place_without_its_kernel_is_done_once(builds):
    call = rotation()
    expected = rotate(call, backend="eager")
    assert rotate(call, out=call).backend == "eager"
    assert builds
    assert off(call.q, expected.q.double()) <= 2e-7
    assert off(call.k, expected.k.double()) <= 2e-7


@pytest.mark.usefixtures("fused_on_cpu")
def test_eager_merges_until_the_kernel_is_built(builds):
    assert merge(parts()).backend == "eager"
    builds.build()
    assert merge(parts()).backend == "fused"


@pytest.mark.usefixtures("fused_on_cpu")
def test_eager_attends_until_all_kernels_are_built(builds):
    call = attention(attention=AttentionConfig(softcap=5.0))  # sdpa declines a soft-cap
    expected = attend(call, "eager").out.double()
    assert attend(call).backend == "eager"
    assert len(builds) == 2, "both at once"
    _, build = builds.popitem()
    build()
    assert attend(call).backend == "eager"
    builds.build()
    after = attend(call)
    assert after.backend == "fused"
    assert off(after.out, expected) <= 1e-6


@pytest.mark.usefixtures("interpreted")
def test_attention_writes_nothing_where_one_kernel_is_missing(builds):
    q, k = randn(2, 4, 16), randn(9, 2, 16)
    out, lse = torch.full_like(q, math.nan), torch.full((2, 4), math.nan)

    def run():
        lengths = (1, 1), (4, 5)
        attention_kernels.attend(q, k, k, out, lse, AttentionConfig(), lengths=lengths)

    for num_missing in (2, 1):
        with pytest.raises(KernelNotBuilt):
            run()
        assert len(builds) == num_missing
        _, build = builds.popitem()
        build()
        builds.clear()
        assert out.isnan().all()
        assert lse.isnan().all()
    run()
    assert not out.isnan().any()


@pytest.mark.usefixtures("interpreted")
def test_a_call_that_names_fused_raises_until_its_kernel_is_built(builds):
    for call in (lambda: rotate(rotation(), backend="fused"), lambda: merge(parts(), "fused")):
        with pytest.raises(KernelNotBuilt):
            call()
        builds.build()
        assert call().backend == "fused"


@pytest.mark.usefixtures("interpreted")
def test_nothing_is_launched_where_one_kernel_is_missing(builds):
    xs = [randn(3, 1, 16) for _ in range(3)]  # two and one: two kernels
    outs = [torch.full_like(x, math.nan) for x in xs]
    table = torch.ones(3, 8), torch.zeros(3, 8)
    options = {"rotary_dim": 16, "layout": "half"}
    xs[2] = randn(3, 8, 16)
    outs[2] = torch.full_like(xs[2], math.nan)
    with pytest.raises(KernelNotBuilt):
        rotary.rotate(xs, outs, table=table, **options)
    assert len(builds) == 2, "both at once"
    key, build = builds.popitem()
    build()
    with pytest.raises(KernelNotBuilt):
        rotary.rotate(xs, outs, table=table, **options)
    assert key not in builds
    assert all(out.isnan().all() for out in outs)
    builds.build()
    rotary.rotate(xs, outs, table=table, **options)
    assert all(torch.equal(out, x) for out, x in zip(outs, xs, strict=True))
