"""Both clients against the running service, and its answers against float64 written down here."""

import uuid

import ml_dtypes
import numpy as np
import pytest

from rope_client import BadRequest, RopeWarning

TOLERANCE = {np.float32: 1e-6, np.float16: 6e-4, ml_dtypes.bfloat16: 4e-3}
"""Relative, as ||error|| / ||expected||."""

THETA = 500.0
B, S, H, HKV, D = 2, 9, 6, 2, 16

pytestmark = pytest.mark.parametrize("encoding", ["safetensors", "json"])


@pytest.fixture
def ask(connect, server_url, encoding):
    return connect(base_url=server_url, encoding=encoding, timeout_s=60)


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def rotated(x, positions, theta=THETA):
    """Multiply each pair (i, i + D/2), taken as a complex number, by exp(i * angle)."""
    half = x.shape[-1] // 2
    angles = np.multiply.outer(positions, theta ** (-np.arange(half) / half))[..., None, :]
    pairs = (x[..., :half].astype(np.complex128) + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], -1)


def attended(q, k, v, visible):
    """Return out and lse of `[B, S, H, D]` tensors in float64."""
    group = q.shape[2] // k.shape[2]
    k, v = (np.repeat(each.astype(np.float64), group, axis=2) for each in (k, v))
    scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1])
    weights = np.where(visible, np.exp(scores), 0)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bhij,bjhd->bihd", weights / total, v)
    return out, np.log(total[..., 0]).transpose(0, 2, 1)


def assert_near(got, expected, dtype, computed_in=None):
    assert got.dtype == dtype
    assert got.shape == expected.shape
    error = np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error < TOLERANCE[computed_in or dtype]


async def test_rotate(ask, dtype):
    q, k = normal(B, S, H, D, dtype=dtype), normal(B, S, HKV, D, dtype=dtype)
    positions = np.array([np.arange(S), np.arange(S) - 1_000])
    answer = await ask("rotate", q=q, k=k, positions=positions, rope={"theta": THETA})
    assert_near(answer.q, rotated(q, positions), dtype)
    assert_near(answer.k, rotated(k, positions), dtype)


async def test_rotating_back_undoes_it(ask):
    k = normal(S, H, D)
    there = await ask("rotate", k=k, positions=np.arange(S) * 0.5)
    back = await ask("rotate", k=there.k, positions=np.arange(S) * 0.5, inverse=True)
    assert there.q is None
    assert_near(back.k, k, np.float32)


async def test_attention(ask, dtype):
    q, k, v = (normal(B, S, h, D, dtype=dtype, seed=h) for h in (H, HKV, HKV))
    answer = await ask("attention", q=q, k=k, v=v, rope={"theta": THETA}, return_lse=True)

    positions = np.arange(S)
    causal = np.tril(np.ones((S, S), bool))
    out, lse = attended(rotated(q, positions), rotated(k, positions), v, causal)
    assert_near(answer.out, out, dtype)
    # float32, but of scores of q and k that were rounded to their own dtype after rotating
    assert_near(answer.lse, lse, np.float32, computed_in=dtype)


async def test_a_window_of_packed_sequences_is_that_of_each(ask):
    q, k, v = (normal(S, h, D, seed=h) for h in (H, HKV, HKV))
    together = await ask("attention", q=q, k=k, v=v, cu_seqlens=[0, 3, 3, S], window=2)
    for start, end in ((0, 3), (3, S)):
        each = [x[None, start:end] for x in (q, k, v)]
        positions = np.arange(end - start)
        distance = positions[:, None] - positions
        visible = (distance >= 0) & (distance < 2)
        out, _ = attended(*(rotated(x, positions, 10_000.0) for x in each[:2]), each[2], visible)
        assert_near(together.out[None, start:end], out, np.float32)


@pytest.mark.parametrize("kind", ["seen", "added"])
async def test_masks_and_sinks(ask, dtype, kind):
    q, k, v = (normal(B, S, h, D, dtype=dtype, seed=h) for h in (H, HKV, HKV))
    seen = normal(B, H, S, S) > -0.5
    seen[0, :, 4] = False
    mask = seen if kind == "seen" else np.where(seen, 0, -np.inf).astype(dtype)
    sinks = normal(H)
    answer = await ask(
        "attention", q=q, k=k, v=v, rope=None, causal=False, mask=mask, sinks=sinks, return_lse=True
    )
    # a sink is a key more, of a value of 0: it takes its share of what the others have
    with np.errstate(divide="ignore", invalid="ignore"):
        out, lse = attended(q, k, v, seen)
    total = np.logaddexp(lse, sinks)
    out = np.where(np.isneginf(lse)[..., None], 0, out * np.exp(lse - total)[..., None])
    assert_near(answer.out, out, dtype)
    assert_near(answer.lse, total, np.float32, computed_in=dtype)
    np.testing.assert_array_equal(answer.lse[0, 4], sinks)


async def test_chunks_and_windows_to_both_sides(ask):
    q, k, v = (normal(B, S, h, D, seed=h) for h in (H, HKV, HKV))
    i, j = np.ogrid[:S, :S]
    for asked, seen in (
        ({"chunk": 4}, (j <= i) & (i // 4 == j // 4)),
        ({"causal": False, "window": 3, "window_ahead": 2}, (i - j < 3) & (j - i <= 2)),
    ):
        answer = await ask("attention", q=q, k=k, v=v, rope=None, **asked)
        assert_near(answer.out, attended(q, k, v, seen)[0], np.float32)


async def test_no_rotation_and_no_mask(ask):
    q, k, v = normal(B, 3, H, D), normal(B, S, HKV, D), normal(B, S, HKV, 2 * D)
    answer = await ask("attention", q=q, k=k, v=v, rope=None, causal=False)
    assert answer.lse is None
    assert_near(answer.out, attended(q, k, v, True)[0], np.float32)


async def test_cos_sin(ask):
    positions = np.array([[0, 1, -7], [131_071, 2, 3]])
    table = await ask("cos_sin", positions=positions, rope={"head_dim": D, "theta": THETA})
    angles = np.multiply.outer(positions, THETA ** (-np.arange(0, D, 2) / D))
    assert_near(table.cos, np.cos(angles), np.float32)
    assert_near(table.sin, np.sin(angles), np.float32)
    assert table.attention_scaling == 1.0


@pytest.mark.parametrize("delta", [-5, np.arange(S)], ids=["one", "each"])
async def test_shift(ask, delta):
    k = normal(S, HKV, D)
    there = (await ask("rotate", k=k, rope={"theta": THETA})).k
    moved = await ask("shift", k=there, delta=delta, rope={"theta": THETA})
    assert_near(moved.k, rotated(k, np.arange(S) + delta), np.float32)


async def test_keys_move_to_other_frequencies(ask):
    k, at = normal(S, HKV, D), np.arange(S) + 100
    there = (await ask("rotate", k=k, positions=at, rope={"theta": THETA})).k
    to = {"theta": THETA, "rope_type": "linear", "factor": 4.0}
    moved = await ask("shift", k=there, positions=at, delta=-100, rope={"theta": THETA}, to=to)
    assert_near(moved.k, rotated(k, np.arange(S) / 4), np.float32)


CONFIG = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": D,
    "num_hidden_layers": 12,
    "sliding_window": 3,
    "rope_theta": 1e6,
    "rope_local_base_freq": THETA,
    "query_pre_attn_scalar": D,
    "layer_types": ["sliding_attention", "full_attention"] * 6,
}


async def test_a_models_config_says_how_it_rotates_and_attends(ask):
    q, k, v = (normal(B, S, h, D, seed=h) for h in (H, HKV, HKV))
    rope = {"config": CONFIG, "layer": 2}
    said = await ask("resolve", rope=rope)
    assert_near(said.inv_freq, THETA ** (-np.arange(D // 2) / (D // 2)), np.float32)
    assert said.facts["layer_type"] == "sliding_attention"
    assert said.facts["attention"]["window"] == 3

    positions = np.arange(S)
    q_rotated, k_rotated = rotated(q, positions), rotated(k, positions)
    answer = await ask("rotate", q=q, k=k, rope=rope)
    assert_near(answer.q, q_rotated, np.float32)
    distance = positions[:, None] - positions
    for asked, width in (({}, 3), ({"window": None}, S), ({"window": 1}, 1)):
        answer = await ask("attention", q=q, k=k, v=v, rope=rope, **asked)
        seen = (distance >= 0) & (distance < width)
        assert_near(answer.out, attended(q_rotated, k_rotated, v, seen)[0], np.float32)


async def test_a_preset_by_its_name(ask):
    (preset,) = [each for each in await ask("presets") if each["name"] == "llama-3.1-8b"]
    by_name = await ask("cos_sin", positions=[0, 70_000], rope="llama-3.1-8b")
    by_config = await ask("cos_sin", positions=[0, 70_000], rope={"config": preset["config"]})
    np.testing.assert_array_equal(by_name.cos, by_config.cos)
    assert (by_name.scale, by_name.warnings) == (None, ())
    with pytest.warns(RopeWarning, match="2\\*\\*24"):
        far = await ask("cos_sin", positions=[2**24 + 1], rope="llama-3.1-8b")
    assert "2**24" in far.warnings[0]


async def test_the_scale_of_xpos(ask):
    table = await ask("cos_sin", positions=[0, 512], rope={"head_dim": 4, "rope_type": "xpos"})
    zeta = (np.array([0, 2]) + 0.4 * 4) / (1.4 * 4)
    middle = 513 // 2  # of the call
    expected = np.stack([zeta ** ((at - middle) / 512) for at in (0, 512)])
    assert_near(table.scale, expected, np.float32)


async def test_positions_of_an_image(ask):
    types = [0, 0, *[1] * 4, 0]
    asked = {"builder": "mrope_index", "family": "qwen2_vl", "token_types": types}
    built = await ask("positions", **asked, image_grid_thw=[[1, 4, 4]])
    expected = [[0, 1, 2, 2, 2, 2, 4], [0, 1, 2, 2, 3, 3, 4], [0, 1, 2, 3, 2, 3, 4]]
    np.testing.assert_array_equal(built.positions, expected)
    assert built.tensors["rope_delta"] == -2

    q = normal(7, 1, 8)
    rope = {"axes": "mrope", "mrope_section": [1, 2, 1]}
    turned = await ask("rotate", q=q, positions=built.positions, rope=rope)
    by_pair = built.positions[[0, 1, 1, 2]].T  # [T, pairs]
    angles = by_pair * 10_000.0 ** (-np.arange(4) / 4)
    pairs = (q[..., :4] + 1j * q[..., 4:]) * np.exp(1j * angles)[:, None]
    assert_near(turned.q, np.concatenate([pairs.real, pairs.imag], -1), np.float32)
    known = {builder["name"] for builder in (await ask("variants"))["builders"]}
    assert "mrope_index" in known


async def test_halves_of_the_keys_merge_into_all(ask):
    q, k, v = normal(B, 1, H, D), normal(B, S, HKV, D), normal(B, S, HKV, D)
    at_s = {"q_positions": [S], "causal": False, "return_lse": True}
    whole = await ask("attention", q=q, k=k, v=v, **at_s)
    halves = [
        await ask("attention", q=q, k=k[:, part], v=v[:, part], k_positions=np.r_[part], **at_s)
        for part in (slice(0, 4), slice(4, S))
    ]
    merged = await ask(
        "merge",
        out=np.stack([half.out for half in halves]),
        lse=np.stack([half.lse for half in halves]),
    )
    assert_near(merged.out, whole.out, np.float32)
    assert_near(merged.lse, whole.lse, np.float32)


LENGTH, QUERIES = 32, 6  # the queries are the last of the sequence
SHARDS = {
    "strided": [(slice(i, None, 4), {"k_offset": i, "k_stride": 4}) for i in range(4)],
    "blocks": [(slice(i, i + 8), {"k_offset": i}) for i in range(0, LENGTH, 8)],
    "uneven, by tensors": [
        (part, {"k_index": np.arange(LENGTH)[part]}) for part in (slice(0, 3), slice(3, None, 2))
    ]
    + [(slice(4, None, 2), {"k_index": np.arange(4, LENGTH, 2)})],
}


@pytest.mark.parametrize("shards", SHARDS.values(), ids=SHARDS)
async def test_shards_of_the_keys_merge_into_one_pass(ask, dtype, shards):
    q = normal(B, QUERIES, H, D, dtype=dtype)
    k, v = (normal(B, LENGTH, HKV, D, dtype=dtype, seed=seed) for seed in (1, 2))
    at, first = np.arange(LENGTH), LENGTH - QUERIES
    asked = {"q_positions": at[first:], "window": 20, "return_lse": True, "out_dtype": "float32"}
    parts = []
    for part, where in shards:
        some = {"k": k[:, part], "v": v[:, part], "k_positions": at[part], **where}
        parts.append(await ask("attention", q=q, q_offset=first, **some, **asked))
    merged = await ask(
        "merge",
        out=np.stack([each.out for each in parts]),
        lse=np.stack([each.lse for each in parts]),
    )
    distance = at[first:, None] - at
    seen = (distance >= 0) & (distance < 20)
    out, lse = attended(rotated(q, at[first:], 10_000.0), rotated(k, at, 10_000.0), v, seen)
    one_pass = await ask("attention", q=q, k=k, v=v, k_positions=at, **asked)
    for answer in (merged, one_pass):
        assert_near(answer.out, out, np.float32, computed_in=dtype)
        assert_near(answer.lse, lse, np.float32, computed_in=dtype)


async def test_a_query_that_sees_no_key(ask):
    q, k, v = normal(1, 2, 1, D), normal(1, 1, 1, D), normal(1, 1, 1, D)
    with pytest.warns(RopeWarning, match="q_positions"):
        answer = await ask("attention", q=q, k=k, v=v, return_lse=True)
    assert np.isneginf(answer.lse[0, 0]).all()
    assert not answer.out[0, 0].any()


async def test_no_tokens_give_no_tokens(ask):
    assert (await ask("rotate", q=normal(0, H, D))).q.shape == (0, H, D)


async def test_a_refusal_says_why(ask):
    name = uuid.uuid4().hex
    with pytest.raises(BadRequest, match="k must be") as raised:
        await ask(
            "attention", q=normal(S, H, D), k=normal(S, H, 4), v=normal(S, H, D), request_id=name
        )
    failure = raised.value
    assert (failure.status, failure.code, failure.request_id) == (422, "shape", name)


async def test_ready_and_version(ask):
    assert await ask("ready") is True
    assert "version" in await ask("version")
