"""The backend `fused`: its kernels; tests of all backends are in tests/core."""

import pytest
import torch

from rope_core import (
    Attend,
    AttentionConfig,
    Merge,
    NoBackend,
    RopeConfig,
    Rotate,
    Shift,
    attend,
    merge,
    reference,
    rotate,
    shift,
)
from rope_core.backends import fused
from rope_core.backends.work import AttentionWork
from tests.core.oracle import (
    DTYPES,
    ROTATE_BAR,
    expect,
    lse_off,
    off,
    qkv,
    randn,
)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotation_is_near_the_reference(layout, dtype):
    rope = RopeConfig.of(80, rotary_dim=20, layout=layout)
    q, k = randn(2, 5, 4, 80, dtype=dtype), randn(2, 5, 2, 80, dtype=dtype, seed=1)
    at = torch.tensor([[0, 1, 7, 131_071, 3], [2, 2, -5, 2**33, 1]])
    answer = rotate(Rotate(q, k, rope, at), backend="fused")
    assert answer.backend == "fused"
    for x, turned in ((q, answer.q), (k, answer.k)):
        assert off(turned, reference.rotate_complex(x, at, rope)) <= ROTATE_BAR[dtype]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig.of(16, theta=5e5),
        RopeConfig.of(32, rotary_dim=24, trailing=True, negative=True),
        RopeConfig.of(16, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        RopeConfig.of(16, axes="mrope", mrope_section=(3, 3, 2)),
    ],
    ids=lambda rope: rope.axes or rope.rope_type,
)
def test_fused_rotates_as_eager_does(rope, inverse):
    width = rope.head_dim
    q, k, at = randn(3, 4, width), randn(3, 2, width), torch.tensor([5, 0, 70])
    call = Rotate(q, k, rope, at, inverse=inverse)
    answer, expected = rotate(call, backend="fused"), rotate(call, backend="eager")
    assert off(answer.q, expected.q.double()) <= 2e-7
    assert off(answer.k, expected.k.double()) <= 2e-7


def test_large_rows_are_rotated_as_by_eager(monkeypatch):
    monkeypatch.setattr("rope_core.angles.ROW_ELEMENTS", 1)
    q, k = randn(3, 5, 4, 16), randn(3, 5, 2, 16)
    for rope in (RopeConfig.of(16), RopeConfig.of(16, arithmetic="hf")):
        call = Rotate(q, k, rope, torch.arange(5))
        answer, expected = rotate(call, backend="fused"), rotate(call, backend="eager")
        assert off(answer.q, expected.q.double()) <= 2e-7
        assert off(answer.k, expected.k.double()) <= 2e-7


@pytest.mark.parametrize("distance", [3, -2, 2**20])
def test_keys_are_shifted(distance):
    k = randn(5, 2, 16)
    call = Shift(k, torch.tensor(distance), RopeConfig.of(16))
    moved = shift(call, backend="fused")
    assert moved.backend == "fused"
    assert off(moved.k, shift(call).k.double()) <= 2e-7


@pytest.mark.parametrize("values", ["kept", "rotated", "and_back"])
def test_attention_by_fused_also_rotates_by_fused(values, monkeypatch):
    monkeypatch.setattr("rope_core.backends.eager.rotary_operator", None)
    rope = RopeConfig.of(16, values=values)
    q, k, v = qkv((2, 3, 4, 16), (2, 5, 2, 16))
    alike = q[:, :, :2], k[:, :3, :1], v[:, :3, :1]
    calls = [
        Attend(q, k, v, rope, q_positions=torch.arange(2, 5), return_lse=True),
        Attend(*alike, rope),
    ]
    answers = [attend(call, backend="fused") for call in calls]
    monkeypatch.undo()
    for call, answer in zip(calls, answers, strict=True):
        assert answer.backend == "fused"
        assert off(answer.out, attend(call, backend="eager").out.double()) <= 1e-6


def test_attention_rotates_by_another_backend_where_fused_declines():
    q, k, v = qkv((3, 4, 16), (3, 2, 16))
    for rope in (RopeConfig.of(16, layout="interleaved_to_half"), RopeConfig.of(16)):
        for backend in ("fused", "sdpa"):
            answer = attend(Attend(q, k, v, rope), backend=backend)
            assert answer.backend == backend
            assert off(answer.out, attend(Attend(q, k, v, rope), backend="eager").out) <= 1e-6


def test_merged_parts_are_attention_over_all_keys():
    q, k, v = qkv((5, 4, 16), (9, 2, 16))
    config = AttentionConfig(causal=False)
    calls = [
        Attend(q, k[part], v[part], None, config, return_lse=True)
        for part in (slice(4), slice(4, None))
    ]
    parts = [attend(call, backend="fused") for call in calls]
    merged = merge(
        Merge(torch.stack([p.out for p in parts]), torch.stack([p.lse for p in parts])),
        backend="fused",
    )
    assert {merged.backend, *(part.backend for part in parts)} == {"fused"}
    out, lse = expect(q, k, v, config)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


def test_a_declined_rotation_has_a_reason():
    x = randn(2, 2, 16)
    for rope, text in (
        (RopeConfig.of(16, rounding="tables"), "it rounds once"),
        (RopeConfig.of(16, rope_type="xpos"), "xPos"),
        (RopeConfig.of(16, layout="interleaved_to_half"), "neither half nor interleaved"),
    ):
        with pytest.raises(NoBackend, match=text):
            rotate(Rotate(x, None, rope), backend="fused")


def test_calls_of_more_programs_than_a_launch_has_are_declined():
    """The bound follows from the shapes; nothing is computed."""
    rows = 2**18

    def work(num_keys):
        q = torch.zeros(1, 1, 1, 1).expand(rows, 1, 32, 16)
        k = torch.zeros(1, 1, 1, 1).expand(rows, num_keys, 8, 16)
        return AttentionWork(q, k, k, AttentionConfig(), None)

    assert fused.why_not(work(512), named=True) is None
    assert "than a launch has programs" in fused.why_not(work(2**16), named=True)


def test_fused_runs_on_a_cpu_only_when_named():
    q, k, v = qkv((3, 4, 16), (3, 2, 16))
    assert attend(Attend(q, k, v, None, AttentionConfig(softcap=1.0))).backend == "eager"
