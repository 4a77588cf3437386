"""M-RoPE positions: properties, examples and invalid arguments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import MROPE_FAMILIES, decode_positions, mrope_index, token_types

OLD = [name for name, rule in MROPE_FAMILIES.items() if rule.in_4_57]
MIXED = torch.tensor([0, 1, 1, 0])
ONE_IMAGE = torch.tensor([[1, 2, 4]])


def index(types, **options):
    return mrope_index(token_types=torch.tensor(types), **options)


def run(kind, count):
    return [kind] * count


@pytest.mark.parametrize("family", MROPE_FAMILIES)
@given(length=st.integers(1, 50))
def test_text_counts_up_on_every_axis(family, length):
    built = index(run(0, length), family=family)
    assert torch.equal(built.positions, torch.arange(length).expand(3, -1))
    assert built.rope_delta == 0


def test_image_example():
    built = index([0, 0, 1, 1, 1, 1, 1, 1, 0], image_grid_thw=torch.tensor([[1, 4, 6]]))
    assert built.positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert built.rope_delta.item() == 6 - 9


VIDEO = [0, 2, 2, 2, 0]


@pytest.mark.parametrize(
    ("family", "options", "time", "after"),
    [
        ("qwen2_vl", {}, [1, 2, 3], 2),
        ("qwen2_vl", {"compat": "4.57"}, [1, 2, 3], 4),
        ("qwen2_5_vl", {}, [1, 5, 9], 2),
        ("qwen2_5_vl", {"compat": "4.57"}, [1, 5, 9], 10),
        ("qwen2_5_vl", {"tokens_per_second": 2, "seconds": [0.75]}, [1, 2, 4], 2),
        ("qwen2_5_vl", {"seconds": [1.75], "compat": "4.57"}, [1, 5, 9], 10),
        ("qwen3_vl", {}, [1, 2, 3], 4),
    ],
)
def test_video_example(family, options, time, after):
    seconds = options.pop("seconds", None)
    built = index(
        VIDEO,
        video_grid_thw=torch.tensor([[3, 2, 2]]),
        family=family,
        second_per_grid_ts=None if seconds is None else torch.tensor(seconds),
        **options,
    )
    assert built.positions[0].tolist() == [0, *time, after]
    space = time if family == "qwen3_vl" else [1, 1, 1]
    assert built.positions[1].tolist() == built.positions[2].tolist() == [0, *space, after]


def test_timestamps_between_frames():
    built = index([0, 2, 2, 0, 0, 2, 2], video_grid_thw=torch.tensor([[2, 2, 4]]), family="glm4v")
    assert built.positions.tolist() == [
        [0, 1, 1, 3, 4, 5, 5],
        [0, 1, 1, 3, 4, 5, 5],
        [0, 1, 2, 3, 4, 5, 6],
    ]


def test_ernie_merges_frames():
    built = index([2, 2, 0], video_grid_thw=torch.tensor([[4, 2, 2]]), family="ernie4_5_vl_moe")
    assert built.positions[0].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("compat", "padding", "delta"), [("5.23", 0, [-1, 0]), ("4.57", 1, [-2, 0])]
)
def test_padding_does_not_count(compat, padding, delta):
    """The second image is in the second row."""
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    grids = torch.tensor([[3, 2, 2], [1, 2, 4]])
    built = mrope_index(token_types=types, image_grid_thw=grids, attention_mask=mask, compat=compat)
    after = 2 if compat == "5.23" else 4
    assert built.positions[:, 0, :2].eq(padding).all()
    assert built.positions[0, 0, 2:].tolist() == [0, 1, 2, 3, after]
    assert built.positions[2, 1].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert built.rope_delta.tolist() == delta


@pytest.mark.parametrize(("compat", "padding", "delta"), [("5.23", 0, 0), ("4.57", 1, -1)])
def test_padding_of_text_alone(compat, padding, delta):
    """4.57 counts the position of padding if there are no grids."""
    built = index([0, 0, 0], attention_mask=torch.tensor([0, 0, 1]), compat=compat)
    assert built.positions.tolist() == [[padding, padding, 0]] * 3
    assert built.rope_delta == delta


@pytest.mark.parametrize(("compat", "time"), [("5.23", [0, 1]), ("4.57", [0, 0])])
def test_image_with_two_frames(compat, time):
    """Images have no seconds; 4.57 takes 0."""
    grids = torch.tensor([[2, 2, 2]])
    built = index([1, 1, 0], image_grid_thw=grids, family="qwen2_5_vl", compat=compat)
    assert built.positions[0].tolist() == [*time, 1]


def test_batch_equals_rows_one_by_one():
    grids = torch.tensor([[1, 4, 4], [1, 2, 2]])
    rows = [[0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    both = index(rows, image_grid_thw=grids)
    for i, row in enumerate(rows):
        alone = index(row, image_grid_thw=grids[i : i + 1])
        assert torch.equal(both.positions[:, i], alone.positions)
        assert torch.equal(both.rope_delta[i], alone.rope_delta)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), max_size=4),
    gaps=st.lists(st.integers(1, 5), min_size=5, max_size=5),
    family=st.sampled_from(sorted(MROPE_FAMILIES)),
)
def test_text_continues_after_blocks_and_decoding_after_the_prompt(shapes, gaps, family):
    types, grids, text = [], [], []
    for gap, (frames, rows, columns) in zip(gaps, shapes, strict=False):
        types += run(0, gap) + run(1, frames * rows * columns)
        grids.append([frames, 2 * rows, 2 * columns])
        text += [gap, max(rows, columns)]
    types += run(0, gaps[-1])
    built = index(types, image_grid_thw=torch.tensor(grids) if grids else None, family=family)
    is_text = torch.tensor(types) == 0
    assert (built.positions[:, is_text] == built.positions[0, is_text]).all()
    assert built.positions[0, -1] == sum(text) + gaps[-1] - 1
    following = built.rope_delta + len(types)
    assert following == built.positions.max() + 1
    decoded = decode_positions(rope_delta=built.rope_delta[None], length=len(types), new_tokens=2)
    assert decoded.flatten(1).tolist() == [[following, following + 1]] * 3


def test_token_types():
    ids_ = torch.tensor([[5, 151655, 151656], [151656, 6, 7]])
    assert token_types(input_ids=ids_).tolist() == [[0, 1, 2], [2, 0, 0]]
    assert token_types(input_ids=ids_, audio_token_id=6).tolist()[1] == [2, 3, 0]


def test_glm_image_tokens_between_video_tokens_are_video():
    marks = {"image_token_id": 9, "video_start_token_id": 1, "video_end_token_id": 2}
    ids_ = torch.tensor([9, 1, 9, 5, 9, 2, 9])
    assert token_types(input_ids=ids_, **marks).tolist() == [1, 0, 2, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ConfigError, "family must be one of", {"family": "qwen9"}),
        (ConfigError, "transformers 4.57 has", {"family": "qwen3_5", "compat": "4.57"}),
        (ConfigError, "compat", {"compat": "4.40"}),
        (ConfigError, "spatial_merge_size", {"spatial_merge_size": 0}),
        (ConfigError, "temporal_merge_size", {"temporal_merge_size": True}),
        (ConfigError, "tokens_per_second", {"family": "qwen2_5_vl", "tokens_per_second": -1.0}),
        (ConfigError, "second_per_grid_ts", {"second_per_grid_ts": torch.ones(1)}),
        (ShapeError, "grid_thw must be divisible", {"image_grid_thw": torch.tensor([[1, 3, 4]])}),
        (ShapeError, "sizes from 1", {"image_grid_thw": torch.tensor([[1, -2, 4]])}),
        (ShapeError, "sizes from 1", {"image_grid_thw": torch.tensor([[2**40, 2, 2]])}),
        (ShapeError, "at most", {"image_grid_thw": torch.tensor([[2**23, 2**23, 2**23]])}),
        (ShapeError, "image_grid_thw", {"image_grid_thw": torch.zeros(0, 3).long()}),
        (ShapeError, r"\[grids, 3\]", {"image_grid_thw": torch.tensor([[2, 4]])}),
        (ShapeError, "int64", {"image_grid_thw": torch.tensor([[1.0, 2, 4]])}),
        (ShapeError, "1 image tokens", {"image_grid_thw": torch.tensor([[1, 2, 2]])}),
        (ShapeError, "0 image tokens", {"image_grid_thw": None}),
        (ShapeError, "1 video tokens", {"video_grid_thw": torch.tensor([[1, 2, 2]])}),
        (ShapeError, "from 0 to 2", {"token_types": torch.tensor([0, 3])}),
        (ShapeError, "token_types", {"token_types": torch.zeros(0).long()}),
        (ShapeError, "a break", {"token_types": torch.tensor([1, 0, 1])}),
        (ShapeError, "a break", {"token_types": torch.tensor([[0, 1], [1, 0]])}),
        (ShapeError, "attention_mask", {"attention_mask": torch.ones(5).long()}),
        (ShapeError, "of 0 and 1", {"attention_mask": torch.tensor([1, 1, 1, 2])}),
        (ShapeError, "row of padding", {"attention_mask": torch.zeros(4).long()}),
    ],
)
def test_invalid_argument_is_named(error, match, options):
    with pytest.raises(error, match=match):
        mrope_index(**{"token_types": MIXED, "image_grid_thw": ONE_IMAGE} | options)


@pytest.mark.parametrize(
    ("seconds", "match"),
    [
        (torch.ones(2), r"\[1\]"),
        (torch.tensor([-1.0]), "seconds"),
        (torch.tensor([float("nan")]), "NaN"),
        (torch.ones(1, dtype=torch.float16), "float32"),
    ],
)
def test_invalid_seconds_are_named(seconds, match):
    grids = torch.tensor([[3, 2, 2]])
    with pytest.raises(ShapeError, match=match):
        index(VIDEO, video_grid_thw=grids, family="qwen2_5_vl", second_per_grid_ts=seconds)
