"""Attention whose keys or queries are rotated already, against formulas in float64 of numpy."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from rope_core import (
    Attend,
    AttentionConfig,
    ConfigError,
    RopeConfig,
    Rotate,
    ShapeError,
    attend,
    rotate,
)
from tests.core.oracle import randn

WIDTH, THETA, FACTOR, ORIGINAL = 16, 10_000.0, 8.0, 64
YARN = RopeConfig.of(
    WIDTH, rope_type="yarn", factor=FACTOR, original_max_position_embeddings=ORIGINAL
)
SIDES = ("both", "q", "k", "none")


def yarn(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return x [..., S, H, D] rotated with YaRN (Peng and others, 2023), halves as pairs."""
    pairs = np.arange(WIDTH // 2)
    own = THETA ** (-2.0 * pairs / WIDTH)

    def pair_of(rotations: float) -> float:
        length = ORIGINAL / (rotations * 2 * math.pi)
        return WIDTH * math.log(length) / (2 * math.log(THETA))

    low, high = max(math.floor(pair_of(32)), 0), min(math.ceil(pair_of(1)), WIDTH - 1)
    ramp = np.clip((pairs - low) / (high - low), 0, 1)
    angles = positions[..., None, None] * (own / FACTOR * ramp + own * (1 - ramp))
    scaling = 0.1 * math.log(FACTOR) + 1
    cos, sin = np.cos(angles) * scaling, np.sin(angles) * scaling
    a, b = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return causal attention of [Sq, H, D] over [Sk, Hkv, D], aligned at the last key."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, 1), v.repeat(group, 1)
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(WIDTH)
    shown = np.arange(len(k)) <= np.arange(len(q))[:, None] + len(k) - len(q)
    weights = np.where(shown, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    return np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)


def expected(call: Attend) -> np.ndarray:
    """Return what a call answers: it rotates the sides that it names, and then attends."""
    q, k, v = (x.double().numpy() for x in (call.q, call.k, call.v))
    ends_q, ends_k = call.cu_seqlens_q, call.cu_seqlens_k

    def numbers(positions: torch.Tensor | None, x: np.ndarray, ends: torch.Tensor) -> np.ndarray:
        if positions is not None:
            return positions.double().numpy()
        if ends is None:
            return np.arange(x.shape[-3])
        return np.concatenate([np.arange(end - start) for start, end in pairwise(ends.tolist())])

    if call.rotate in ("both", "q"):
        q = yarn(q, numbers(call.q_positions, q, ends_q))
    if call.rotate in ("both", "k"):
        k = yarn(k, numbers(call.k_positions, k, ends_k))
    if q.ndim == 4:
        return np.stack([attention(*row) for row in zip(q, k, v, strict=True)])
    if ends_q is None:
        return attention(q, k, v)
    parts = zip(pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True)
    return np.concatenate([attention(q[slice(*i)], k[slice(*j)], v[slice(*j)]) for i, j in parts])


def forms(side: str) -> dict[str, Attend]:
    """Return calls of several forms; sides that are not rotated have no positions."""
    q_positions = torch.tensor([30, 31, 99]) if side in ("both", "q") else None
    k_positions = torch.arange(100, 107) if side in ("both", "k") else None
    rows_q, rows_k = randn(2, 3, 4, WIDTH), randn(2, 7, 2, WIDTH, seed=1)
    long_q, long_k = randn(6, 4, WIDTH, seed=2), randn(14, 2, WIDTH, seed=3)
    ends = {"cu_seqlens_q": torch.tensor([0, 2, 6]), "cu_seqlens_k": torch.tensor([0, 9, 14])}
    rows = Attend(rows_q, rows_k, rows_k + 1, YARN, AttentionConfig(), rotate=side)
    return {
        "rows": rows,
        "positions": dataclasses.replace(rows, q_positions=q_positions, k_positions=k_positions),
        "one sequence": Attend(long_q, long_k, long_k + 1, YARN, rotate=side),
        "a pack": Attend(long_q, long_k, long_k + 1, YARN, **ends, rotate=side),
    }


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", forms("both"))
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_sides_that_are_named_rotate(side, form, name):
    call = forms(side)[form]
    found = attend(call, name).out.double().numpy()
    assert np.linalg.norm(found - expected(call)) <= 2e-6 * np.linalg.norm(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cache_of_rotated_keys_attends_as_keys_that_are_rotated(dtype):
    keys, positions = randn(1, 40, 2, WIDTH).to(dtype), torch.arange(40)[None]
    q = randn(1, 3, 4, WIDTH, seed=1).to(dtype)
    cache = rotate(Rotate(None, keys, YARN, positions)).k
    both = Attend(q, keys, keys, YARN, q_positions=positions[:, -3:], k_positions=positions)
    one = Attend(q, cache, keys, YARN, q_positions=positions[:, -3:], rotate="q")
    assert torch.equal(attend(one, "eager").out, attend(both, "eager").out)


def test_values_that_rotate_belong_to_the_keys_and_the_output_to_the_queries():
    rope = dataclasses.replace(RopeConfig.of(WIDTH), values="and_back")
    q, k = randn(1, 5, 2, WIDTH), randn(1, 5, 2, WIDTH, seed=1)
    rotated = rotate(Rotate(q, k, rope))
    whole = attend(Attend(q, k, k, rope)).out
    of_q = attend(Attend(q, rotated.k, rotated.k, rope, rotate="q")).out
    of_k = attend(Attend(rotated.q, k, k, rope, rotate="k")).out
    torch.testing.assert_close(of_q, whole)
    torch.testing.assert_close(rotate(Rotate(of_k, None, rope, inverse=True)).q, whole)


def test_what_is_refused():
    q = randn(1, 5, 2, WIDTH)
    positions = torch.arange(5)
    with pytest.raises(ConfigError, match="rotate must be one of"):
        Attend(q, q, q, YARN, rotate="v")
    with pytest.raises(ConfigError, match="rotate must be both or none if rope is null"):
        Attend(q, q, q, None, rotate="q")
    with pytest.raises(ShapeError, match="k_positions must be absent: with rotate q, k is not"):
        Attend(q, q, q, YARN, k_positions=positions, rotate="q")
    with pytest.raises(ShapeError, match="q_positions must be absent: with rotate none"):
        Attend(q, q, q, YARN, q_positions=positions, rotate="none")
    assert attend(Attend(q, q, q, None, rotate="none")).out.shape == q.shape
