"""What was packed together does not matter: answers are the same to the last bit."""

from itertools import pairwise

import pytest
import torch

from rope_core import Attend, AttentionConfig, RopeConfig, Rotate, attend, ragged, rotate
from tests.core.oracle import DTYPES, LAYOUTS, qkv, randn, spans

LENGTHS = (1, 7, 0, 64, 2, 333, 1, 5)
ENDS = torch.tensor([0, *LENGTHS]).cumsum(0)


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def same(actual, expected):
    """Compare bits: NaN is NaN, and 0 is not -0."""
    kind = {2: torch.int16, 4: torch.int32}[actual.element_size()]
    return torch.equal(actual.view(kind), expected.contiguous().view(kind))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("heads", "head_dim", "rotary_dim"),
    [(1, 64, 64), (3, 20, 10), (5, 7, 4), (32, 128, 128), (1, 2, 2), (1, 33, 32)],
    ids=str,
)
@pytest.mark.usefixtures("threads")
def test_rotating_a_pack_is_rotating_one_by_one(heads, head_dim, rotary_dim, layout, dtype):
    rope = RopeConfig.of(head_dim, rotary_dim=rotary_dim, layout=layout)
    x = randn(int(ENDS[-1]), heads, head_dim, dtype=dtype)
    counted = rotate(Rotate(x, None, rope, cu_seqlens=ENDS)).q
    at = ragged.token_positions(x, None, ENDS)
    for start, end in pairwise(ENDS.tolist()):
        alone = x[start:end].clone()
        assert same(rotate(Rotate(alone, None, rope)).q, counted[start:end])
        single = rotate(Rotate(alone[None], None, rope, positions=at[start:end])).q
        assert same(single[0], counted[start:end])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("tokens", "heads", "half"),
    [(9_001, 8, 17), (9_001, 1, 32), (3_000, 3, 33), (1_002, 20, 16), (1_002, 40, 32)],
    ids=str,
)
def test_threads_and_neighbours_in_a_large_pack_do_not_matter(tokens, heads, half, layout, dtype):
    rope = RopeConfig.of(2 * half, layout=layout)
    x, at = randn(tokens, heads, 2 * half, dtype=dtype), torch.arange(tokens)
    before = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(rotate(Rotate(x, None, rope)).q)
            parts = (slice(0, 1), slice(1, 1_001), slice(1_001, None))
            calls = [Rotate(x[part], None, rope, positions=at[part]) for part in parts]
            answers.append(torch.cat([rotate(call).q for call in calls]))
    finally:
        torch.set_num_threads(before)
    assert all(same(answer, answers[0]) for answer in answers[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 4, 32), (1, 1, 4, 32), (1, 1, 1, 34), (1, 3, 2)], ids=str)
def test_one_token_is_rotated_as_among_others(shape, layout, dtype):
    rope = RopeConfig.of(shape[-1], layout=layout)
    q, k = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1)
    many = q.view(1, *shape[-2:]).expand(5_000, -1, -1).contiguous()
    among = rotate(Rotate(many, None, rope)).q
    for at in (0, 1, 1_024, 4_999):
        positions = torch.tensor([at])
        both = rotate(Rotate(q, k, rope, positions=positions))
        assert same(both.q.view(-1), among[at].view(-1))
        assert same(both.q, rotate(Rotate(q, None, rope, positions=positions)).q)
        assert same(both.k, rotate(Rotate(None, k, rope, positions=positions)).k)
        assert same(both.k, rotate(Rotate(k, None, rope, positions=positions.int())).q)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nor_do_they_in_a_token_that_is_large_itself(layout, dtype):
    rope, x = RopeConfig.of(64, layout=layout), randn(3, 1_100, 64, dtype=dtype)
    before = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(rotate(Rotate(x, None, rope)).q)
            alone = Rotate(x[2:].clone(), None, rope, positions=torch.tensor([2]))
            answers.append(torch.cat((answers[-1][:2], rotate(alone).q)))
    finally:
        torch.set_num_threads(before)
    assert all(same(answer, answers[0]) for answer in answers[1:])


CONFIGS = {
    "causal": AttentionConfig(),
    "all seen": AttentionConfig(causal=False),
    "a window": AttentionConfig(window=9),
    "a window to both sides": AttentionConfig(causal=False, window=9, window_ahead=4),
    "chunks": AttentionConfig(chunk=8),
    "a soft-cap": AttentionConfig(softcap=1.0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.usefixtures("threads")
def test_attending_in_a_pack_is_attending_one_by_one(config, dtype):
    rope = RopeConfig.of(20)
    q, k, v = qkv((int(ENDS[-1]), 6, 20), (int(ENDS[-1]), 2, 20), dtype=dtype)
    ends_k = torch.tensor([0, *LENGTHS[::-1]]).cumsum(0)
    packed = attend(Attend(q, k, v, rope, config, None, None, ENDS, ends_k, return_lse=True))
    for at_q, at_k in spans(ENDS, ends_k):
        parts = (t[at].clone() for t, at in ((q, at_q), (k, at_k), (v, at_k)))
        alone = attend(Attend(*parts, rope, config, return_lse=True))
        assert same(packed.out[at_q], alone.out)
        assert same(packed.lse[at_q], alone.lse)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("num_queries", "num_keys"), [(33, 33), (5, 70), (1, 9), (200, 200)])
def test_attending_in_rows_of_a_batch_is_attending_one_by_one(num_queries, num_keys, config, dtype):
    rope = RopeConfig.of(20)
    q, k, v = qkv((4, num_queries, 6, 20), (4, num_keys, 2, 20), dtype=dtype)
    ends_q, ends_k = (torch.arange(5) * n for n in (num_queries, num_keys))
    before = torch.get_num_threads()
    # with more threads, PyTorch's float16 operator may share one row of few heads among them
    torch.set_num_threads(1)
    try:
        batch = attend(Attend(q, k, v, rope, config, return_lse=True))
        joined = (t.flatten(0, 1) for t in (q, k, v))
        packed = attend(Attend(*joined, rope, config, None, None, ends_q, ends_k))
        assert same(packed.out, batch.out.flatten(0, 1))
        for row in range(4):
            alone = attend(Attend(q[row], k[row], v[row], rope, config, return_lse=True))
            assert same(batch.out[row], alone.out)
            assert same(batch.lse[row], alone.lse)
    finally:
        torch.set_num_threads(before)


# queries, keys, heads of both, width, whether there are a mask, places or values of another width
ROWS = {
    "many of a width that is multiplied packed": (40, 90, 8, 2, 64, {}),
    "a short append to a long past": (6, 700, 6, 2, 16, {}),
    "a decode": (1, 700, 6, 2, 16, {}),
    "a mask": (9, 20, 6, 2, 16, {"mask": (1, 1, 9, 20)}),
    "a mask for each head of one query": (1, 20, 6, 2, 16, {"mask": (1, 6, 1, 20)}),
    "places": (9, 20, 6, 2, 16, {"places": True}),
    "narrow values": (9, 20, 6, 2, 16, {"value_dim": 8}),
    "wide values": (9, 20, 6, 2, 16, {"value_dim": 40}),
}


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=["same", "float32"])
@pytest.mark.parametrize("case", ROWS.values(), ids=ROWS)
def test_rows_of_every_kind_are_answered_as_if_alone(case, out_dtype, dtype):
    num_queries, num_keys, num_heads, num_kv_heads, width, options = case
    shapes = (5, num_queries, num_heads, width), (5, num_keys, num_kv_heads, width)
    q, k, v = qkv(*shapes, value_dim=options.get("value_dim"), dtype=dtype)
    mask = randn(*options["mask"], seed=9) > -0.5 if "mask" in options else None
    places = torch.arange(num_keys).flip(0) if "places" in options else None
    kwargs = {"mask": mask, "out_dtype": out_dtype, "return_lse": True, "k_index": places}
    kwargs["q_index"] = None if places is None else places[:num_queries]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = attend(Attend(q, k, v, None, **kwargs))
        for row in range(5):
            alone = attend(
                Attend(q[row : row + 1], k[row : row + 1], v[row : row + 1], None, **kwargs)
            )
            assert same(batch.out[row], alone.out[0])
            assert same(batch.lse[row], alone.lse[0])
    finally:
        torch.set_num_threads(before)
