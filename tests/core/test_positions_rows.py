"""Positions of rows: padded ones after a prompt, packed documents, chunks of long prompts."""

import math
import random
from itertools import chain, pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from rope_core import Merge, attend, merge, rotate
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import (
    MROPE_FAMILIES,
    decode_positions,
    dual_chunk_positions,
    mrope_index,
    offset_positions,
    omni_mrope_index,
    token_types,
    xdrope_index,
)

DELTA = torch.tensor([-2, 0])
MASK = torch.tensor([[0] + [1] * 7, [0] * 3 + [1] * 5])


@pytest.mark.parametrize("mask", [MASK, MASK.flip(1)], ids=["left", "right"])
@pytest.mark.parametrize("generated", [0, 3])
def test_decoding_continues_after_the_tokens_of_each_row(mask, generated):
    """7 and 5 tokens of 8: padding of a row is no token."""
    expected = [[5 + generated, 6 + generated]] * 2
    options = {"rope_delta": DELTA, "new_tokens": 2, "axes": 1}
    of_mask = decode_positions(attention_mask=mask, length=8 + generated, **options)
    of_lengths = decode_positions(lengths=mask.sum(-1) + generated, **options)
    assert of_mask.tolist() == of_lengths.tolist() == [expected]
    if not generated:
        assert torch.equal(decode_positions(attention_mask=mask, **options), of_mask)


def test_decoding_is_that_of_transformers():
    """The positions that `generate` gives Qwen2-VL, with padding on either side and with images."""
    model = Qwen2VLModel.__new__(Qwen2VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen2VLConfig()
    draw = random.Random(0)
    for _ in range(40):
        rows, grids = prompts(draw, num_rows=draw.randint(1, 4))
        columns = max(map(len, rows)) + draw.randint(0, 2)
        sides = draw.choice([(1, 0), (0, 1)])
        types = torch.tensor([padded(row, columns, sides) for row in rows])
        mask = torch.tensor([padded([1] * len(row), columns, sides) for row in rows])
        new, before = draw.randint(1, 3), draw.randint(0, 3)
        _, model.rope_deltas = model.get_rope_index(
            types, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=mask
        )
        oracle = model.compute_3d_position_ids(
            None,
            torch.zeros(len(rows), new, 1),
            attention_mask=torch.cat([mask, mask.new_ones(len(rows), before + new)], 1),
            past_key_values=SimpleNamespace(get_seq_length=lambda at=columns + before: at),
        )[..., -new:]
        delta = mrope_index(token_types=types, image_grid_thw=grids, attention_mask=mask).rope_delta
        options = {"attention_mask": mask, "length": columns + before, "new_tokens": new}
        assert torch.equal(decode_positions(rope_delta=delta, **options), oracle)


def padded(row, columns, sides):
    left, right = ([0] * (columns - len(row)) * side for side in sides)
    return left + row + right


def prompts(draw, num_rows):
    """Return the token types of rows with images, and the grids of their images."""
    rows, grids = [], [[1, 2, 2]]
    for i in range(num_rows):
        row = [0, 1] if not i else []
        for _ in range(draw.randint(0, 2)):
            height, width = draw.randint(1, 3), draw.randint(1, 3)
            grids.append([1, 2 * height, 2 * width])
            row += [0] * draw.randint(1, 3) + [1] * (height * width)
        rows.append(row + [0] * draw.randint(1, 3))
    return rows, torch.tensor(grids)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ConfigError, "2 rows of rope_delta can have different padding", {"length": 8}),
        (ConfigError, "length must be given, or lengths or attention_mask", {}),
        (ConfigError, "length must be 8 or more", {"attention_mask": MASK, "length": 7}),
        (ShapeError, "absent if length", {"lengths": torch.tensor([7, 5]), "length": 8}),
        (ShapeError, "absent if attention_mask", {"lengths": DELTA, "attention_mask": MASK}),
        (ShapeError, "lengths must be of numbers from 0", {"lengths": DELTA}),
        (ShapeError, "lengths must be of 2 rows", {"lengths": torch.tensor([7, 5, 1])}),
        (ShapeError, "attention_mask must be of 2 rows", {"attention_mask": MASK[0]}),
        (ShapeError, "-1 or more, because 1 tokens", {"lengths": torch.tensor([1, 5])}),
    ],
)
def test_lengths_that_do_not_fit_are_named(error, match, options):
    with pytest.raises(error, match=match):
        decode_positions(rope_delta=DELTA, **options)


def test_new_tokens_start_after_the_cache_of_each_row():
    built = offset_positions(length=2, starts=torch.tensor([7, 5]))
    assert built.tolist() == [[7, 8], [5, 6]]


SIDE = st.integers(1, 3)
DOCUMENT = st.lists(st.tuples(SIDE, SIDE, SIDE), max_size=3)
"""Frames, rows and columns of the images or videos of a document."""


def check_pack(index, documents, **options):
    """Check that a pack has the positions and deltas of its documents alone.

    Args:
        index: the builder.
        documents: token types, and the grids of images and of videos, of each.
        options: of each call.
    """
    types, images, videos = ([*parts] for parts in zip(*documents, strict=True))
    alone = [call(index, *document, **options) for document in documents]
    ends = [0]
    for document in types:
        ends.append(ends[-1] + len(document))
    merged = ([*chain(*parts)] for parts in (types, images, videos))
    pack = call(index, *merged, cu_seqlens=torch.tensor(ends), **options)
    assert pack.rope_delta.tolist() == [built.rope_delta.item() for built in alone]
    for (start, end), built in zip(pairwise(ends), alone, strict=True):
        assert torch.equal(pack.positions[:, start:end], built.positions)


def call(index, types, images, videos, **options):
    grids = {"image_grid_thw": images, "video_grid_thw": videos}
    grids = {name: torch.tensor(thw) for name, thw in grids.items() if thw}
    if videos and options.get("family") in ("qwen2_5_omni", "qwen3_omni_moe"):
        grids["second_per_grid_ts"] = torch.full((len(videos),), 0.5)
    return index(token_types=torch.tensor(types), **grids, **options)


@settings(max_examples=20)
@given(
    documents=st.lists(DOCUMENT, min_size=1, max_size=4),
    family=st.sampled_from(sorted(MROPE_FAMILIES)),
    is_old=st.booleans(),
)
def test_documents_of_a_pack_are_as_alone(documents, family, is_old):
    rules = MROPE_FAMILIES[family]
    parts = []
    for document in documents:
        types, images, videos = [0], [], []
        for i, (frames, rows, columns) in enumerate(document):
            is_image = i % 2 or rules.splits_frames or rules.merges_time
            (images if is_image else videos).append([frames, 2 * rows, 2 * columns])
            types += [1 if is_image else 2] * (frames * rows * columns) + [0] * (i + 1)
        parts.append((types, images, videos))
    compat = "4.57" if is_old and rules.in_4_57 else "5.23"
    check_pack(mrope_index, parts, family=family, compat=compat)


@settings(max_examples=20)
@given(
    documents=st.lists(DOCUMENT, min_size=1, max_size=4),
    family=st.sampled_from(["qwen2_5_omni", "qwen3_omni_moe"]),
)
def test_documents_of_a_pack_with_sound_are_as_alone(documents, family):
    parts = []
    for document in documents:
        types, images, videos = [0], [], []
        for frames, rows, columns in document:
            images.append([frames, 2 * rows, 2 * columns])
            videos.append([frames, 2 * rows, 2 * columns])
            size = frames * rows * columns
            types += [0, *[1] * size, 0, 0, *[2] * size, 0, 0, *[3] * columns, 0]
        parts.append((types, images, videos))
    check_pack(omni_mrope_index, parts, family=family)


@settings(max_examples=20)
@given(documents=st.lists(DOCUMENT, min_size=1, max_size=4))
def test_documents_of_a_pack_of_hunyuan_are_as_alone(documents):
    parts = []
    for document in documents:
        types, images = [0], []
        for _, rows, columns in document:
            images.append([1, 2 * rows, 2 * columns])
            types += [1] * (rows * (columns + 1)) + [0]
        parts.append((types, images, []))
    check_pack(xdrope_index, parts)


def test_a_document_without_tokens_has_delta_0():
    ends = torch.tensor([0, 0, 2, 2])
    for index in (mrope_index, omni_mrope_index, xdrope_index):
        built = index(token_types=torch.tensor([0, 0]), cu_seqlens=ends)
        assert built.positions[0].tolist() == [0, 1]
        assert built.rope_delta.tolist() == [0, 0, 0]


@pytest.mark.parametrize("index", [mrope_index, omni_mrope_index, xdrope_index])
@pytest.mark.parametrize(
    ("match", "types", "options"),
    [
        (
            "attention_mask must be absent if cu_seqlens",
            [0, 0],
            {"attention_mask": torch.ones(2).long()},
        ),
        (r"token_types must be \[S\], one row", [[0, 0]], {}),
        ("cu_seqlens must be from 0 to 3", [0, 0, 0], {}),
    ],
)
def test_invalid_packs_are_named(index, match, types, options):
    with pytest.raises(ShapeError, match=match):
        index(token_types=torch.tensor(types), cu_seqlens=torch.tensor([0, 2]), **options)


def test_an_image_across_documents_is_named():
    with pytest.raises(ShapeError, match="without a break, or the end of a row or document"):
        mrope_index(
            token_types=torch.tensor([0, 1, 1, 0]),
            image_grid_thw=torch.tensor([[1, 2, 4]]),
            cu_seqlens=torch.tensor([0, 2, 4]),
        )


def test_a_video_that_a_document_leaves_open_ends_with_it():
    marks = {"image_token_id": 9, "video_start_token_id": 1, "video_end_token_id": 2}
    ids = torch.tensor([9, 1, 9, 9, 2])
    alone = [token_types(input_ids=part, **marks).tolist() for part in (ids[:3], ids[3:])]
    pack = token_types(input_ids=ids, cu_seqlens=torch.tensor([0, 3, 5]), **marks)
    assert pack.tolist() == [*chain(*alone)] == [1, 0, 2, 1, 0]


@given(
    length=st.integers(1, 60),
    chunk_size=st.integers(1, 20),
    queries=st.integers(1, 60),
    data=st.data(),
)
def test_distances_of_dual_chunks(length, chunk_size, queries, data):
    """The distance of a query and a key from the definition, by the chunks of both."""
    local_size = data.draw(st.integers(0, chunk_size - 1))
    queries = min(queries, length)
    at = dual_chunk_positions(
        length=length, chunk_size=chunk_size, local_size=local_size, query_length=queries
    )
    chunks = at.q_chunk[:, None] - at.k_chunk
    kinds = [chunks == 0, chunks == 1]
    distance = torch.where(
        kinds[0],
        at.q_intra[:, None] - at.k,
        torch.where(kinds[1], at.q_succ[:, None] - at.k, at.q_inter[:, None] - at.k),
    )
    tokens = chunk_size - local_size
    for row, i in enumerate(range(length - queries, length)):
        for j in range(i + 1):
            far = chunk_size - j % tokens  # the query stands at the end of its chunk's neighbours
            expected = i - j
            if i // tokens - j // tokens == 1:
                expected = min(i - j, far)
            elif i // tokens != j // tokens:
                expected = min(2 * tokens - 1 - j % tokens, far)
            assert distance[row, j] == expected
            if i - j <= local_size <= tokens:
                assert expected == i - j
    assert distance.max() <= chunk_size


def test_dual_chunk_attention_from_three_parts():
    """Three attends and a merge, as docs/api.md says, against all scores at once."""
    at = dual_chunk_positions(length=20, chunk_size=6, local_size=2, query_length=9)
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 9, 2, 8), torch.randn(1, 20, 2, 8), torch.randn(1, 20, 2, 8)
    chunks = at.q_chunk[:, None] - at.k_chunk
    kinds = [chunks == 0, chunks == 1, chunks > 1]
    k_rotated = rotate(k, positions=at.k, rope={})
    scores, parts = torch.full((2, 9, 20), -torch.inf), []
    for kind, positions in zip(kinds, (at.q_intra, at.q_succ, at.q_inter), strict=True):
        q_rotated = rotate(q, positions=positions, rope={})
        part = attend(q_rotated, k_rotated, v, rotate="none", rope=None, mask=kind, return_lse=True)
        parts.append(part)
        distance = positions[:, None] - at.k
        of_kind = torch.einsum("qhd,qkhd->hqk", q[0], turned_back(k[0], distance)) / 8**0.5
        scores = torch.where(
            kind & (torch.arange(11, 20)[:, None] >= torch.arange(20)), of_kind, scores
        )
    outs, lses = map(torch.stack, zip(*parts, strict=True))
    out = merge(Merge(outs, lses)).out
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[0])
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-5)


def turned_back(k, distance):
    """Return keys `[K, H, 8]` rotated by minus the distance `[Q, K]`: `[Q, K, H, 8]`."""
    angles = (-distance[..., None] * 10000 ** (-torch.arange(4) / 4))[:, :, None]
    x, y = k.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([x * cos - y * sin, x * sin + y * cos], -1)


def test_scores_of_a_long_prompt_are_scaled():
    at = dual_chunk_positions(length=40, original_max_position_embeddings=10)
    assert at.attention_factor.item() == pytest.approx(0.1 * math.log(4) + 1)
    for trained in (0, 40, 50):
        short = dual_chunk_positions(length=40, original_max_position_embeddings=trained)
        assert short.attention_factor == 1
