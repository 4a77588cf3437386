"""Attention that answers in float32, so that parts of it can be merged without another rounding."""

import pytest
import torch

from rope_core import Attend, AttentionConfig, ConfigError, Merge, RopeConfig, attend, merge
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, qkv, run

HALF = DTYPES[1:]


@pytest.mark.parametrize("ends", [(), (torch.tensor([0, 2, 7]),) * 2], ids=["one", "packed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_what_is_answered_without(backend, dtype, ends):
    q, k, v = qkv((7, 4, 16), (7, 2, 16), dtype=dtype)
    wide, lse = run(backend, q, k, v, None, *ends, out_dtype=torch.float32)
    own, own_lse = run(backend, q, k, v, None, *ends)
    assert wide.dtype == torch.float32
    assert lse_off(lse, own_lse.double()) <= LSE_BAR[dtype]
    assert off(wide, own.double()) <= ATTEND_BAR[dtype]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_parts_in_float32_merge_into_one_pass(backend, dtype):
    q, k, v = qkv((5, 4, 16), (40, 2, 16), dtype=dtype)
    config = AttentionConfig(causal=False)
    parts = [
        run(backend, q, k[i : i + 4], v[i : i + 4], config, out_dtype=torch.float32)
        for i in range(0, 40, 4)
    ]
    merged = merge(Merge(*(torch.stack(each) for each in zip(*parts, strict=True))))
    out, _ = expect(q, k, v, config)
    assert merged.out.dtype == torch.float32
    assert off(merged.out, out) <= ATTEND_BAR[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_float32_or_that_of_q(dtype):
    q, k, v = qkv((5, 4, 16), (5, 2, 16), dtype=dtype)
    for rope in (None, RopeConfig.of(16), RopeConfig.of(16, values="and_back")):
        assert attend(Attend(q, k, v, rope, out_dtype=torch.float32)).out.dtype == torch.float32
        assert attend(Attend(q, k, v, rope, out_dtype=dtype)).out.dtype == dtype
    with pytest.raises(ConfigError, match="out_dtype must be float32 or that of q"):
        Attend(q, k, v, None, out_dtype=torch.float64)
