"""Parts of attention merged in one launch: against float64, and parts without weight."""

import math

import numpy as np
import pytest
import torch

from rope_core import Merge
from rope_core import merge as merge_in_torch
from rope_core.kernels.merge import merge
from tests.core.oracle import DTYPES, lse_off, off, randn

ROUNDING = {torch.float32: 3e-7, torch.float16: 2.9e-4, torch.bfloat16: 2.3e-3}


@pytest.fixture(autouse=True)
def quiet():
    """Silence NumPy, as some tests compute with infinities."""
    with np.errstate(all="ignore"):
        yield


def merged(parts, lse, dtype=None):
    """Merge into memory that holds NaN."""
    rows, width = parts.shape[1:]
    out = torch.full((rows, width), math.nan, dtype=dtype or parts.dtype, device=parts.device)
    out_lse = torch.full((rows,), math.nan, device=parts.device)
    merge(parts, lse, out, out_lse)
    return out, out_lse


def expect(parts, lse):
    total = lse.double().logsumexp(0)
    return ((lse.double() - total).exp()[..., None] * parts.double()).sum(0), total


def random_parts(num_parts, rows, width, device, dtype=torch.float32):
    parts = randn(num_parts, rows, width, dtype=dtype).to(device)
    return parts, (3 * randn(num_parts, rows, seed=1)).to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 3, 64, 72, 130, 600])
def test_merged_parts_are_attention_over_all_keys(width, dtype, device):
    for num_parts, rows in ((1, 5), (2, 9), (7, 3)):
        parts, lse = random_parts(num_parts, rows, width, device, dtype)
        out, out_lse = merged(parts, lse)
        expected, total = expect(parts, lse)
        assert off(out, expected) <= ROUNDING[dtype]
        assert lse_off(out_lse, total) <= 1e-6


def test_the_answer_is_rounded_once(device):
    parts, lse = random_parts(4, 6, 32, device)
    for dtype in DTYPES:
        out, _ = merged(parts, lse, dtype)
        assert torch.equal(out, merged(parts, lse)[0].to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_part_is_returned_unchanged(dtype, device):
    parts, lse = random_parts(1, 6, 16, device, dtype)
    out, out_lse = merged(parts, lse)
    assert torch.equal(out, parts[0])
    assert torch.equal(out_lse, lse[0])


@pytest.mark.parametrize("first", [1, 2, 4])
def test_merging_is_associative(first, device):
    parts, lse = random_parts(5, 6, 16, device)
    flat, flat_lse = merged(parts, lse)
    pairs = [merged(parts[part], lse[part]) for part in (slice(first), slice(first, 5))]
    nested, nested_lse = merged(*(torch.stack(t) for t in zip(*pairs, strict=True)))
    assert off(nested, flat) <= 3e-7
    assert lse_off(nested_lse, flat_lse.double()) <= 1e-6


def test_a_row_has_the_same_bits_alone_and_in_a_batch(device):
    parts, lse = random_parts(3, 9, 16, device)
    out, out_lse = merged(parts, lse)
    for i in range(9):
        alone, alone_lse = merged(parts[:, i : i + 1], lse[:, i : i + 1])
        assert torch.equal(alone[0], out[i])
        assert torch.equal(alone_lse[0], out_lse[i])


def test_a_part_without_keys_is_not_read(device):
    parts, lse = random_parts(4, 3, 16, device)
    lse[1] = lse[3, 0] = -math.inf
    expected, _ = expect(parts, lse)
    for junk in (0.0, math.nan, math.inf):
        parts[1] = parts[3, 0] = junk
        out, out_lse = merged(parts, lse)
        assert off(out, expected) <= 3e-7
        assert lse_off(out_lse, lse.double().logsumexp(0)) <= 1e-6


def test_a_part_whose_weight_underflows_is_not_read(device):
    parts, lse = random_parts(2, 3, 16, device)
    parts[1], lse[1] = math.nan, -200.0
    out, out_lse = merged(parts, lse)
    assert torch.equal(out, parts[0])
    assert torch.equal(out_lse, lse[0])


def test_a_row_without_keys_is_0_with_lse_minus_infinity(device):
    parts, lse = random_parts(3, 4, 16, device)
    lse[:, 2], parts[:, 2] = -math.inf, math.nan
    out, out_lse = merged(parts, lse)
    assert torch.equal(out[2], torch.zeros(16, device=device))
    assert out_lse[2] == -math.inf
    assert not out.isnan().any()


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_log_sum_exps_do_not_overflow(offset, device):
    parts, lse = random_parts(3, 4, 16, device)
    out, out_lse = merged(parts, lse + offset)
    assert off(out, expect(parts, lse + offset)[0]) <= 3e-7
    torch.testing.assert_close(out_lse, (lse + offset).logsumexp(0))


def test_nan_and_inf_are_handled_as_by_eager(device):
    parts, lse = random_parts(3, 7, 8, device)
    inf, nan = math.inf, math.nan
    rows = [(inf, 1, 2), (inf, inf, 0), (nan, 1, 2), (-inf, nan, 1), (inf, nan, 1), (-inf, inf, 0)]
    for row, values in enumerate(rows):
        lse[:, row] = torch.tensor(values)
    answer = merge_in_torch(Merge(parts, lse))
    out, out_lse = merged(parts, lse)
    assert torch.equal(out.isnan(), answer.out.isnan())
    assert torch.equal(out.isnan().any(-1), torch.arange(7, device=device) < 6)
    torch.testing.assert_close(out_lse, answer.lse, equal_nan=True)


def test_any_strides_give_the_same_bits_and_nothing_else_is_written(device):
    parts, lse = random_parts(3, 5, 12, device)
    expected, expected_lse = merged(parts, lse)
    by_row = torch.stack((parts, parts)).permute(2, 1, 0, 3).contiguous()[:, :, 1].transpose(0, 1)
    padded_lse = torch.full((3, 8), math.nan, device=device)
    padded_lse[:, 1:6] = lse
    memory = torch.full((5, 15), math.nan, device=device)
    out_lse = torch.full((7,), math.nan, device=device)
    merge(by_row, padded_lse[:, 1:6], memory[:, 2:14], out_lse[1:6])
    assert torch.equal(memory[:, 2:14], expected)
    assert torch.equal(out_lse[1:6], expected_lse)
    memory[:, 2:14] = out_lse[1:6] = math.nan
    assert memory.isnan().all()
    assert out_lse.isnan().all()


def test_empty_tensors(device):
    out, out_lse = merged(*random_parts(3, 0, 8, device))
    assert out.shape == (0, 8)
    assert out_lse.shape == (0,)
    out, out_lse = merged(*random_parts(3, 2, 0, device))
    assert not out_lse.isnan().any(), "an answer without width has a log-sum-exp"
