"""Positions of Qwen-Omni and HunyuanVL: examples and invalid arguments."""

import pytest
import torch

from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import omni_mrope_index, xdrope_index

CLIP = torch.tensor([[2, 2, 2]])
SECOND = torch.tensor([1.0])


def omni(types, **options):
    return omni_mrope_index(token_types=torch.tensor(types), **options)


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_sound_counts_as_text(family):
    built = omni([0, 0, 3, 3, 0], family=family)
    assert built.positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert built.rope_delta == 0
    assert built.positions.is_floating_point() == (family == "qwen3_omni_moe")


def test_text_starts_after_the_last_frame():
    options = {"video_grid_thw": CLIP, "second_per_grid_ts": torch.tensor([0.3])}
    whole = omni([0, 2, 2, 0, 0], **options)
    assert whole.positions[0].tolist() == [0, 1, 8, 9, 10]  # 1 + int(7.5)
    assert whole.positions[1].tolist() == [0, 1, 1, 9, 10]
    assert whole.rope_delta == 11 - 5
    part = omni([0, 2, 2, 0, 0], **options, family="qwen3_omni_moe", position_id_per_seconds=25)
    assert part.positions[0].tolist() == [0, 1, 8.5, 9.5, 10.5]


def test_chunks_of_a_video_and_its_sound():
    """One frame per chunk of two positions; start marks share a position, end marks another."""
    built = omni(
        [0, 0, 2, 3, 3, 2, 3, 0, 0, 0],
        video_grid_thw=CLIP,
        second_per_grid_ts=SECOND,
        position_id_per_seconds=2,
        seconds_per_chunk=1.0,
    )
    assert built.positions[0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert built.positions[2].tolist() == [0, 0, 1, 1, 2, 1, 3, 4, 4, 5]


def test_a_video_and_its_sound_by_time():
    built = omni(
        [0, 0, 2, 3, 3, 2, 3, 0, 0],
        video_grid_thw=CLIP,
        second_per_grid_ts=SECOND,
        position_id_per_seconds=2,
        family="qwen3_omni_moe",
    )
    assert built.positions[0].tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6]


def test_text_starts_after_the_last_part_of_a_video_with_sound():
    """Columns reach 5 and sound 3; transformers continues after the sound."""
    built = omni(
        [0, 0, 2, 2, 2, 2, 3, 3, 0, 0],
        video_grid_thw=torch.tensor([[1, 2, 8]]),
        second_per_grid_ts=SECOND,
        family="qwen3_omni_moe",
    )
    assert built.positions[2].tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("family", "grid", "padding"),
    [
        ("qwen2_5_omni", False, 1),
        ("qwen2_5_omni", True, 1),
        ("qwen3_omni_moe", False, 1),
        ("qwen3_omni_moe", True, 0),
    ],
)
def test_padding_of_omni(family, grid, padding):
    built = omni(
        [[0, 0, 0, 1, 0, 0]] if grid else [[0] * 6],
        image_grid_thw=torch.tensor([[1, 2, 2]]) if grid else None,
        attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]]),
        family=family,
    )
    assert built.positions[1].tolist() == [[padding] * 2 + [0, 1, 2, 3]]
    assert built.rope_delta.tolist() == [0]


@pytest.mark.parametrize(
    ("error", "match", "types", "options"),
    [
        (ConfigError, "family", [0], {"family": "qwen2_vl"}),
        (ConfigError, "seconds_per_chunk", [0], {"seconds_per_chunk": 0.01}),
        (ConfigError, "second_per_grid_ts", [0, 2, 2, 0], {"video_grid_thw": CLIP}),
        (ShapeError, "text before and after", [3, 0], {}),
        (ShapeError, "text after", [0, 3], {}),
        (ShapeError, "text before and after", [0, 3, 0, 3, 0], {}),
        (ShapeError, "image_grid_thw", [0, 1, 0], {}),
        (
            ShapeError,
            "as long as their grids",
            [0, 1, 1, 0],
            {"image_grid_thw": torch.tensor([[1, 2, 2]])},
        ),
        (ShapeError, "every grid", [0, 0], {"image_grid_thw": torch.tensor([[1, 2, 2]])}),
        (
            ShapeError,
            "interleaved by time",
            [0, 0, 3, 2, 2, 0, 0],
            {"video_grid_thw": CLIP, "second_per_grid_ts": SECOND},
        ),
        (ShapeError, "0 to 3", [0, 4], {}),
    ],
)
def test_invalid_argument_of_omni_is_named(error, match, types, options):
    with pytest.raises(error, match=match):
        omni(types, **options)


@pytest.mark.parametrize("marked", [False, True])
def test_hunyuan_patches_and_line_breaks(marked):
    grids = torch.tensor([[1, 4, 2], [1, 2, 2]])
    marks = [1 if marked else 0]
    types = [0, *marks, 1, 1, 1, 1, *marks, 0, *marks, 1, 1, *marks, 0]
    built = xdrope_index(token_types=torch.tensor([types]), image_grid_thw=grids)
    assert built.positions[:, 0].tolist() == [
        list(range(13)),
        [0, 1, 0, 1, 0, 1, 6, 7, 8, 0, 1, 11, 12],
        [0, 1, 0, 0, 1, 1, 6, 7, 8, 0, 0, 11, 12],
        [0, 1, 0, 0, 0, 0, 6, 7, 8, 1, 1, 11, 12],
    ]
    assert built.rope_delta.tolist() == [0]
    three = xdrope_index(token_types=torch.tensor([types]), image_grid_thw=grids, axes=3)
    assert torch.equal(three.positions, built.positions[1:])


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ConfigError, "axes", {"axes": 2}),
        (ShapeError, "1 runs", {"token_types": torch.tensor([0, 0])}),
        (ShapeError, "or 2 more", {"token_types": torch.tensor([0, 1, 1, 1])}),
        (ShapeError, "one frame", {"image_grid_thw": torch.tensor([[2, 2, 2]])}),
        (ShapeError, "0 to 1", {"token_types": torch.tensor([0, 2])}),
    ],
)
def test_invalid_argument_of_hunyuan_is_named(error, match, options):
    valid = {"token_types": torch.tensor([0, 1, 1]), "image_grid_thw": torch.tensor([[1, 2, 2]])}
    with pytest.raises(error, match=match):
        xdrope_index(**valid | options)
