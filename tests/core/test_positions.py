"""Builders of positions: properties, examples and invalid arguments."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rope_core import positions as build
from rope_core.errors import ConfigError, RopeError, ShapeError

SIZE = st.integers(1, 6)


@given(sizes=st.lists(SIZE, min_size=1, max_size=4), start=st.integers(-9, 9))
def test_grid_has_each_point_once_with_the_last_axis_fastest(sizes, start):
    points = build.grid_positions(sizes=sizes, start=start)
    weights = torch.tensor(sizes).flip(0).cumprod(0).flip(0) // torch.tensor(sizes)
    assert torch.equal((points - start).T @ weights, torch.arange(points.shape[1]))
    swapped = build.grid_positions(sizes=sizes, start=start, column_first=True)
    assert torch.equal(swapped.flip(0), points)


@given(grid=st.tuples(SIZE, SIZE, SIZE), merge=st.integers(1, 3))
def test_merge_blocks_permute_each_frame(grid, merge):
    frames, rows, columns = grid[0], grid[1] * merge, grid[2] * merge
    thw = torch.tensor([[frames, rows, columns]])
    built = build.merge_block_positions(grid_thw=thw, spatial_merge_size=merge)
    every = (built[0] * columns + built[1]).view(frames, -1)
    assert torch.equal(every.sort(1).values, torch.arange(rows * columns).expand(frames, -1))
    assert torch.equal(every, every[:1].expand(frames, -1))
    blocks = (built // merge).view(2, -1, merge * merge)
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))


def test_merge_blocks_example():
    thw = torch.tensor([[1, 4, 4], [2, 2, 2]])
    built = build.merge_block_positions(grid_thw=thw, with_time=True)
    assert built[1].tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2 + [0, 0, 1, 1] * 2
    assert built[2].tolist() == [0, 1, 0, 1, 2, 3, 2, 3] * 2 + [0, 1, 0, 1] * 2
    assert built[0].tolist() == [0] * 20 + [1] * 4
    plain = build.merge_block_positions(grid_thw=thw[:1], spatial_merge_size=1)
    assert torch.equal(plain, build.grid_positions(sizes=[4, 4]))


def test_class_tokens_are_at_position_0():
    points = build.grid_positions(sizes=[1, 2], start=1, first_tokens=2, last_tokens=1)
    assert points.tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 2, 0]]


def test_padded_grids():
    built = build.padded_grid_positions(
        grid_hw=torch.tensor([[2, 2], [1, 1]]), length=5, padding=-1
    )
    assert built.tolist() == [
        [[0, 1, 0, 1, -1], [0, -1, -1, -1, -1]],
        [[0, 0, 1, 1, -1], [0, -1, -1, -1, -1]],
    ]


def test_window_positions_are_scaled():
    built = build.window_positions(sizes=[2, 4], window_size=2)
    assert built.tolist() == [[0, 0.5, 1, 1.5] * 2, [0] * 4 + [0.5] * 4]


@given(rows=SIZE, columns=SIZE)
def test_patch_centres_are_symmetric(rows, columns):
    points = build.patch_centre_positions(sizes=[rows, columns])
    torch.testing.assert_close(points, -points.flip(1))
    assert points.abs().max() < 1


def test_pixels_go_from_minus_one_to_one():
    built = build.pixel_positions(sizes=[2, 3], offsets=[0, 1])
    assert built.tolist() == [[-1, -1, -1, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


def test_centred_images_and_their_prompt():
    built = build.centred_positions(sizes=[[1, 2, 3], [1, 1, 1]], text_tokens=2)
    assert built.tolist() == [
        [0] * 6 + [1, 1, 2],
        [-1, -1, -1, 0, 0, 0, -1, 1, 2],
        [-2, -1, 0, -2, -1, 0, -1, 1, 2],
    ]
    layered = build.centred_positions(sizes=[[1, 1, 1]] * 4, text_tokens=1, layered=True)
    assert layered[0].tolist() == [0, 1, 2, -1, 3]
    plain = build.centred_positions(sizes=[[1, 1, 2]], text_tokens=1, scale_rope=False)
    assert plain.tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]]


def test_flux_2_counts_text_on_its_own_axis():
    built = build.flux_positions(sizes=[1, 2], text_tokens=2, axes=4, index=10)
    assert built.tolist() == [[0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_captions_and_images_are_padded():
    built = build.caption_positions(text_lengths=torch.tensor([1, 2]), sizes=[1, 2])
    assert built.tolist() == [
        [[0, 1, 1, 0], [0, 1, 2, 2]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ]


def test_a_video_without_scale_keeps_its_indices():
    built = build.normalised_video_positions(sizes=[1, 1, 3])
    assert built.tolist() == [[-1, -1, -1], [-1, -1, -1], [-1, 1, 3]]


def test_frames_without_a_rate_are_counted():
    assert build.frame_rate_positions(sizes=[2, 1, 1])[0].tolist() == [0, 1]


def test_audio_time_positions():
    stamps = torch.tensor([[0.0, 0.5], [0.08, 0.12]])
    time, window, frame = build.audio_time_positions(timestamps=stamps, max_position_embeddings=4)
    torch.testing.assert_close(time, -2 * torch.pi * stamps)
    assert window.tolist() == [[0, 0], [0.25, 0.25]]
    torch.testing.assert_close(frame, torch.tensor([[0, torch.pi / 2]]).expand(2, -1))


def test_interpolation_divides_positions():
    built = build.interpolated_positions(length=3, start=1, factor=4)
    assert built.tolist() == [0.25, 0.5, 0.75]


MASKS = st.lists(st.integers(0, 1), min_size=1, max_size=30).filter(any)


@given(mask=MASKS)
def test_padding_is_not_counted(mask):
    built = build.mask_positions(attention_mask=torch.tensor(mask), padding=7)
    tokens = torch.tensor(mask).bool()
    assert built[tokens].tolist() == list(range(sum(mask)))
    assert built[~tokens].eq(7).all()


@given(lengths=st.lists(SIZE, min_size=1, max_size=6))
def test_boundaries_of_packed_positions(lengths):
    starts = torch.tensor([0, *lengths]).cumsum(0)
    points = build.packed_positions(cu_seqlens=starts)
    assert points.tolist() == [i for length in lengths for i in range(length)]
    # documents of one token follow each other at position 0, which is also a break
    assert torch.equal(build.document_boundaries(positions=points), starts)


def test_a_gap_starts_a_document():
    built = build.document_boundaries(positions=torch.tensor([3, 4, 6, 7]))
    assert built.tolist() == [0, 2, 4]


@given(
    length=st.integers(1, 60), window=st.integers(1, 20), group=st.integers(1, 8), data=st.data()
)
def test_grouped_distances(length, window, group, data):
    queries = data.draw(st.integers(1, length))
    options = {"length": length, "window": window, "query_length": queries}
    extended = build.self_extend_positions(**options, group=group)
    constant = build.rerope_positions(**options)
    leaky = build.leaky_rerope_positions(**options, factor=group)
    distance = extended.q_near[:, None] - extended.k_near
    assert distance[-1].tolist() == list(range(length - 1, -1, -1))
    assert len(distance) == queries
    assert (constant.q_far[:, None] - constant.k_far == window).all()
    torch.testing.assert_close(
        leaky.q_far[:, None] - leaky.k_far, window + (distance - window) / group
    )
    far = extended.q_far[:, None] - extended.k_far
    # each floor division loses less than one far step
    off = (far - (window + (distance - window) / group)).abs()
    assert off.max() < 2


def test_self_extend_example():
    built = build.self_extend_positions(length=6, window=3, group=2)
    assert built.q_far.tolist() == [2, 2, 3, 3, 4, 4]
    assert built.k_far.tolist() == [0, 0, 1, 1, 2, 2]


@given(length=st.integers(1, 40), sinks=st.integers(0, 5), recent=st.integers(1, 9))
def test_streaming_positions_count_inside_the_cache(length, sinks, recent):
    built = build.streaming_positions(length=length, sink_tokens=sinks, recent_tokens=recent)
    assert built.positions.tolist() == list(range(min(length, sinks + recent)))
    assert torch.equal(built.kept + built.delta, built.positions)
    assert built.kept.diff().gt(0).all()
    assert built.kept[-1] == length - 1
    assert built.delta[:sinks].eq(0).all()


ARGUMENTS = {
    "token_types": {"input_ids": torch.tensor([1])},
    "mrope_index": {"token_types": torch.tensor([0])},
    "decode_positions": {"rope_delta": torch.tensor([0]), "length": 1},
    "omni_mrope_index": {"token_types": torch.tensor([0])},
    "xdrope_index": {"token_types": torch.tensor([0])},
    "grid_positions": {"sizes": [2, 2]},
    "merge_block_positions": {"grid_thw": torch.tensor([[1, 2, 2]])},
    "padded_grid_positions": {"grid_hw": torch.tensor([[1, 2]]), "length": 2},
    "resampled_positions": {"sizes": [2, 2], "axes_dim": [4, 4]},
    "patch_centre_positions": {"sizes": [2, 2]},
    "window_positions": {"sizes": [2, 2], "window_size": 2},
    "pixel_positions": {"sizes": [2]},
    "area_normalised_positions": {"sizes": [1, 2, 2]},
    "atom_positions": {"xyz": torch.zeros(2, 3), "uid": torch.tensor([0, 1])},
    "audio_time_positions": {"timestamps": torch.zeros(1, 2)},
    "flux_positions": {"sizes": [2, 2]},
    "centred_positions": {"sizes": [[1, 2, 2]]},
    "crop_positions": {"sizes": [1, 2, 2], "crop_start": [0, 0], "crop_stop": [2, 2]},
    "frame_rate_positions": {"sizes": [1, 2, 2]},
    "normalised_video_positions": {"sizes": [1, 2, 2]},
    "caption_positions": {"text_lengths": torch.tensor([1]), "sizes": [2, 2]},
    "offset_positions": {"length": 2},
    "interpolated_positions": {"length": 2},
    "mask_positions": {"attention_mask": torch.tensor([1])},
    "packed_positions": {"cu_seqlens": torch.tensor([0, 1])},
    "document_boundaries": {"positions": torch.tensor([0])},
    "self_extend_positions": {"length": 2, "window": 1, "group": 2},
    "rerope_positions": {"length": 2, "window": 1},
    "leaky_rerope_positions": {"length": 2, "window": 1, "factor": 2},
    "dual_chunk_positions": {"length": 2},
    "streaming_positions": {"length": 2, "sink_tokens": 1, "recent_tokens": 1},
}
ONE = torch.tensor([1])
INVALID = [None, "x", True, [], {}, -1, 0, 2**62, float("nan"), float("inf"), [0], [2**40] * 3]
INVALID += [[1.5, 2], [[1]], [-1, 2], torch.zeros(0), torch.zeros(0).long(), torch.tensor(1)]
INVALID += [torch.full((2, 3), -1), torch.full((1, 3), 2**40), torch.full((1, 3), float("nan"))]
INVALID += [
    torch.full((1,), -(2**63)),
    torch.full((1,), 2**62),
    torch.ones(1, 3).half(),
    torch.ones(2, 2, 2, 2).long(),
]


def test_every_builder_has_a_case():
    assert ARGUMENTS.keys() == build.BUILDERS.keys()


@pytest.mark.parametrize("name", build.BUILDERS)
def test_builder_is_documented(name):
    builder = build.BUILDERS[name]
    assert builder.name == builder.function.__name__ == name
    assert builder.summary.endswith((".", ")."))
    assert builder.models
    assert getattr(build, name) is builder.function
    for parameter in inspect.signature(builder.function).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert f"{parameter.name}: " in inspect.getdoc(builder.function)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_positions_are_int64_or_float32(name):
    built = build.BUILDERS[name].function(**ARGUMENTS[name])
    tensors = [built] if isinstance(built, torch.Tensor) else vars(built).values()
    assert {tensor.dtype for tensor in tensors} <= {torch.int64, torch.float32}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_invalid_arguments_raise_only_rope_errors(name):
    function = build.BUILDERS[name].function
    for parameter in inspect.signature(function).parameters:
        for value in INVALID:
            try:
                function(**ARGUMENTS[name] | {parameter: value})
            except RopeError as error:
                named = getattr(error, "parameter", None) or getattr(error, "tensor", "")
                assert named.split("[")[0] in inspect.signature(function).parameters


@pytest.mark.parametrize(
    ("error", "match", "name", "options"),
    [
        (ConfigError, "sizes must be an integer", "grid_positions", {"sizes": [0, 2]}),
        (ConfigError, "sizes", "grid_positions", {"sizes": [2] * 5}),
        (ConfigError, "at most 16777216", "grid_positions", {"sizes": [2**12, 2**12]}),
        (ConfigError, "first_tokens", "grid_positions", {"first_tokens": 2**24}),
        (ShapeError, "divisible", "merge_block_positions", {"spatial_merge_size": 3}),
        (ConfigError, "length", "padded_grid_positions", {"length": 1}),
        (ConfigError, "window_size", "window_positions", {"window_size": 0}),
        (ConfigError, "offsets", "pixel_positions", {"offsets": [0, 0]}),
        (ShapeError, "uid", "atom_positions", {"uid": torch.tensor([0])}),
        (ShapeError, "xyz", "atom_positions", {"xyz": torch.zeros(2, 2)}),
        (ShapeError, "timestamps", "audio_time_positions", {"max_position_embeddings": 1}),
        (ConfigError, "axes", "flux_positions", {"axes": 2}),
        (ConfigError, r"sizes\[0\]", "centred_positions", {"sizes": [[1, 2]]}),
        (ConfigError, "layered", "centred_positions", {"sizes": [[2, 1, 1]], "layered": True}),
        (ConfigError, "crop_stop", "crop_positions", {"crop_stop": [float("nan"), 0]}),
        (ConfigError, "fps", "frame_rate_positions", {"fps": 0.0}),
        (ConfigError, "base_height", "normalised_video_positions", {"base_height": 0}),
        (ShapeError, "text_lengths", "caption_positions", {"text_lengths": torch.tensor([-1])}),
        (ConfigError, "factor", "interpolated_positions", {"factor": 0}),
        (ShapeError, "cu_seqlens", "packed_positions", {"cu_seqlens": torch.tensor([0, 2, 1])}),
        (ShapeError, "cu_seqlens", "packed_positions", {"cu_seqlens": torch.tensor([1, 2])}),
        (ShapeError, "rope_delta", "decode_positions", {"rope_delta": torch.tensor([-2])}),
        (ConfigError, "query_length", "rerope_positions", {"query_length": 3}),
        (ConfigError, "query_length", "dual_chunk_positions", {"query_length": 3}),
        (ConfigError, "local_size", "dual_chunk_positions", {"chunk_size": 4, "local_size": 4}),
        (ConfigError, "start must be absent", "offset_positions", {"starts": ONE, "start": 2}),
        (ConfigError, "length", "offset_positions", {"starts": ONE, "length": 2**25}),
        (ConfigError, "recent_tokens", "streaming_positions", {"recent_tokens": 0}),
    ],
)
def test_invalid_argument_is_named(error, match, name, options):
    with pytest.raises(error, match=match):
        build.BUILDERS[name].function(**ARGUMENTS[name] | options)
