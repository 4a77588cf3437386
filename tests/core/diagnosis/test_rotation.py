"""`diagnose` of rotations: wrong code in plain torch, and what is said of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rope_core import ConfigError, RopeConfig, RopeError, ShapeError, rotate
from rope_core.diagnosis.diagnose import diagnose
from rope_core.diagnosis.result import Diagnosis

TOKENS, HEADS, DIM = 24, 2, 32
ROPE = {"theta": 10_000.0}


def heads(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal random numbers, the same at each call."""
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(dtype)


X = heads(2, TOKENS, HEADS, DIM)
PADDED = torch.stack((torch.arange(TOKENS), (torch.arange(TOKENS) - 5).clamp_min(0)))
LISTS = {
    "rotary_dim": 16,
    "rope_type": "longrope",
    "short_factor": [1.0 + i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}
HALF = pytest.approx(0.5)
SHUFFLED = torch.randperm(DIM, generator=torch.Generator().manual_seed(0))


def right(x: Tensor = X, positions: Tensor | None = None, **parameters: object) -> Tensor:
    """Return x, rotated as a rope with these parameters does."""
    return rotate(x, rope={**ROPE, **parameters}, positions=positions)


def mixed(x: Tensor) -> Tensor:
    """Rotate halves by columns that are repeated for neighbours."""
    angles = torch.arange(x.shape[1])[:, None] * 10_000.0 ** (-torch.arange(0, DIM, 2) / DIM)
    cos, sin = (t.repeat_interleave(2, -1)[:, None] for t in (angles.cos(), angles.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


PORTS: dict[str, tuple[dict[str, object], Callable[[], Tensor], list[tuple[str, dict]]]] = {
    "not rotated": ({}, lambda: X, [("not_rotated", {})]),
    "twice": ({}, lambda: right(right()), [("rotated_twice", {})]),
    "reversed": ({}, lambda: right(negative=True), [("direction_reversed", {})]),
    "swapped": (
        {},
        lambda: right(layout="interleaved"),
        [("layout_swapped", {"layout": "interleaved"})],
    ),
    "mixed": ({}, lambda: mixed(X), [("layout_mixed", {})]),
    "shuffled": (
        {},
        lambda: right()[..., SHUFFLED],
        [("layout_permuted", {"permutation": SHUFFLED.tolist()})],
    ),
    "whole head": (
        {"rotary_dim": 16},
        lambda: right(),
        [("partial_ignored", {"rotary_dim": 32})],
    ),
    "less of the head": (
        {"rotary_dim": 16},
        lambda: right(rotary_dim=8),
        [("rotary_dim_wrong", {"rotary_dim": 8})],
    ),
    "an odd part of the head": (
        {"rotary_dim": 16},
        lambda: right(rotary_dim=22),
        [("rotary_dim_wrong", {"rotary_dim": 22})],
    ),
    "an odd part of the head and a base": (
        {},
        lambda: right(rotary_dim=6, theta=5e5),
        [("wrong_base", {"theta": 5e5}), ("rotary_dim_wrong", {"rotary_dim": 6})],
    ),
    "another part than its lists have": (
        LISTS,
        lambda: right(rotary_dim=12),
        [("scaling_ignored", {"rope_type": "longrope"}), ("rotary_dim_wrong", {"rotary_dim": 12})],
    ),
    "other end": (
        {"rotary_dim": 16},
        lambda: right(rotary_dim=16, trailing=True),
        [("slice_at_other_end", {})],
    ),
    "along heads": (
        {},
        lambda: right(X.transpose(1, 2)).transpose(1, 2),
        [("axis_mistaken", {"axis": "heads"})],
    ),
    "along rows": (
        {},
        lambda: right(X.transpose(0, 1)).transpose(0, 1),
        [("axis_mistaken", {"axis": "batch"})],
    ),
    "padding": ({"positions": PADDED}, lambda: right(), [("padding_counted", {})]),
    "two mistakes": (
        {"rotary_dim": 16},
        lambda: right(rotary_dim=16, trailing=True, layout="interleaved"),
        [("layout_swapped", {"layout": "interleaved"}), ("slice_at_other_end", {})],
    ),
    "a mistake of pairs and one of angles": (
        {},
        lambda: right(layout="interleaved", theta=5e5),
        [("layout_swapped", {"layout": "interleaved"}), ("wrong_base", {"theta": 5e5})],
    ),
    "order and base": (
        {},
        lambda: right(theta=5e5)[..., SHUFFLED],
        [
            ("layout_permuted", {"permutation": SHUFFLED.tolist()}),
            ("wrong_base", {"theta": 5e5}),
        ],
    ),
    "not back in order": (
        {"layout": "interleaved"},
        lambda: right(layout="interleaved_to_half"),
        [("layout_swapped", {"layout": "interleaved_to_half"})],
    ),
    "twice with another order": (
        {"layout": "interleaved_to_half"},
        lambda: right(right(layout="interleaved_to_half"), layout="interleaved_to_half"),
        [("rotated_twice", {})],
    ),
    "mixed, and shuffled": (
        {},
        lambda: mixed(X)[..., SHUFFLED],
        [("layout_mixed", {}), ("layout_permuted", {"permutation": SHUFFLED.tolist()})],
    ),
    "twice, and shuffled": (
        {"layout": "interleaved_to_half"},
        lambda: right(right(layout="interleaved_to_half"), layout="interleaved_to_half")[
            ..., SHUFFLED
        ],
        [("rotated_twice", {}), ("layout_permuted", {"permutation": SHUFFLED.tolist()})],
    ),
}


def told(diagnosis: Diagnosis) -> list[list[tuple[str, dict[str, object]]]]:
    """Return codes and parameters of the explanations."""
    return [
        [(one.code, dict(one.parameters)) for one in explanation.mistakes]
        for explanation in diagnosis.explanations
    ]


@pytest.mark.parametrize("name", PORTS)
def test_a_port_with_a_known_mistake(name: str) -> None:
    given, port, expected = PORTS[name]
    positions = given.get("positions")
    rope = {**ROPE, **{key: value for key, value in given.items() if key != "positions"}}
    diagnosis = diagnose(rope, before=X, after=port(), positions=positions)  # type: ignore[arg-type]
    assert diagnosis.verdict == "explained"
    assert told(diagnosis)[0] == expected
    explanation = diagnosis.explanations[0]
    assert explanation.relative_error < 1e-5
    assert explanation.remedy
    if explanation.rope is not None:
        again = rotate(X, rope=explanation.rope, positions=positions)  # type: ignore[arg-type]
        torch.testing.assert_close(again, port(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (
            lambda x: right(x)[..., SHUFFLED],
            [("layout_permuted", {"permutation": SHUFFLED.tolist()})],
        ),
        (lambda x: 0.5 * mixed(x), [("layout_mixed", {}), ("gain_wrong", {"gain": HALF})]),
    ],
    ids=["shuffled", "mixed, with a gain"],
)
def test_tokens_of_one_channel_each(
    port: Callable[[Tensor], Tensor], expected: list[tuple[str, dict[str, object]]]
) -> None:
    x = torch.eye(DIM)[None, :, None]
    assert told(diagnose(ROPE, before=x, after=port(x)))[0] == expected


def test_a_layer_without_rotation() -> None:
    layer = {"preset": "smollm3-3b", "layer": 3}
    x = heads(1, 8, 2, 128)
    assert diagnose(layer, before=x, after=x).verdict == "agrees"
    rotated = rotate(x, rope={"preset": "smollm3-3b", "layer": 0})
    assert told(diagnose(layer, before=x, after=rotated)) == [[("nope_layer_rotated", {})]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "rope",
    [
        {},
        {"layout": "interleaved", "rotary_dim": 16, "trailing": True},
        {"layout": "interleaved_to_half", "blocks": 2},
        {"layout": "interleaved_tiled"},
        {"rope_type": "xpos"},
        {"axes": "mrope", "mrope_section": [4, 6, 6]},
        {"axes": "xdrope", "xdrope_section": [4, 4, 4, 4]},
        {"rope_type": "dynamic", "factor": 4.0, "max_position_embeddings": 8},
    ],
    ids=str,
)
def test_right_numbers_agree(rope: dict[str, object], dtype: torch.dtype) -> None:
    axes = RopeConfig.of(DIM, **rope).num_axes
    positions = torch.arange(axes * TOKENS).reshape(axes, 1, TOKENS) % 19
    positions = positions.expand(axes, 2, TOKENS) if axes > 1 else positions.reshape(TOKENS)
    x = X.to(dtype)
    diagnosis = diagnose(
        rope, before=x, after=rotate(x, rope=rope, positions=positions), positions=positions
    )
    assert diagnosis.verdict == "agrees"
    assert not diagnosis.explanations
    assert not diagnosis.warnings


def test_what_is_measured() -> None:
    x = heads(200, 3, 64, dtype=torch.bfloat16)
    theirs = rotate(
        x,
        rope={"theta": 5e5, "rotary_dim": 32, "layout": "interleaved", "negative": True},
        positions=range(7, 207),
    )
    diagnosis = diagnose({"rotary_dim": 32}, before=x, after=theirs)
    measured = diagnosis.measured
    assert measured is not None
    assert (measured.layout, measured.rotary_dim, measured.slice_start) == ("interleaved", 32, 0)
    assert measured.direction == -1
    assert measured.position_offset == pytest.approx(7, abs=0.01)
    assert measured.theta == pytest.approx(5e5, rel=0.01)
    assert measured.gain == pytest.approx(1, rel=1e-3)
    assert measured.rope_type == "default"
    assert measured.unresolved_pairs == (15,)  # 200 tokens turn it by 0.001 radians
    right_row = 5e5 ** (-torch.arange(0, 32, 2) / 32)
    right_row[15] = 0
    torch.testing.assert_close(diagnosis.tensors["inv_freq"], right_row, rtol=0.01, atol=1e-5)


def test_pairs_that_no_two_mistakes_have_are_measured() -> None:
    theirs = right(rotary_dim=10, theta=123_456.0, layout="interleaved")
    diagnosis = diagnose({"rotary_dim": 24}, before=X, after=theirs)
    measured = diagnosis.measured
    assert (diagnosis.verdict, measured is None) == ("unexplained", False)
    assert measured is not None
    assert (measured.layout, measured.rotary_dim, measured.slice_start) == ("interleaved", 10, 0)
    assert measured.theta == pytest.approx(123_456, rel=0.01)


def test_where_it_differs() -> None:
    theirs = right()
    theirs[1, 20] = X[1, 20]
    diagnosis = diagnose(ROPE, before=X, after=theirs, positions=torch.arange(TOKENS))
    assert diagnosis.verdict == "unexplained"
    assert diagnosis.error.first_position == 20
    assert diagnosis.error.worst is not None
    assert diagnosis.error.worst.index[:2] == (1, 20)
    by_position = diagnosis.tensors["error_by_position"]
    assert by_position.shape == (2, TOKENS)
    assert by_position.nonzero().tolist() == [[1, 20]]
    assert diagnosis.tensors["error_by_pair"].shape == (DIM // 2,)


def test_noise_and_orthogonal_maps_are_not_explained() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = 1 + 0.01 * torch.randn(X.shape, generator=generator)
    turned, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))
    for theirs in (right() * noise, right() @ turned):
        assert diagnose(ROPE, before=X, after=theirs).verdict == "unexplained"


def test_evidence_that_proves_little_asks_for_more() -> None:
    still = diagnose(ROPE, before=X, after=X, positions=[0] * TOKENS)
    assert still.verdict == "agrees"
    assert "all positions are 0" in still.warnings[0]
    assert still.next_probe is not None
    assert "positions 0 alone prove nothing" in still.next_probe
    one = diagnose(ROPE, before=X[:1, :1], after=X[:1, :1], positions=[3])
    assert one.next_probe is not None
    assert one.next_probe.startswith("send more than one token")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float) -> None:
    theirs = right()
    theirs[0, 3, 0, 0] = value
    diagnosis = diagnose(ROPE, before=X, after=theirs)
    assert diagnosis.verdict == "unexplained"
    assert diagnosis.error.relative is diagnosis.error.max_abs is None
    assert "NaN or infinite" in diagnosis.warnings[0]


def test_zeros_agree_with_a_warning() -> None:
    diagnosis = diagnose(ROPE, before=0 * X, after=0 * X)
    assert (diagnosis.verdict, diagnosis.error.relative) == ("agrees", None)
    assert diagnosis.warnings


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_large_and_small_numbers(scale: float) -> None:
    x = X * scale
    diagnosis = diagnose(ROPE, before=x, after=right(x, theta=5e5))
    assert told(diagnosis)[0] == [("wrong_base", {"theta": 5e5})]


REFUSED: dict[str, tuple[dict[str, object], type[RopeError], str]] = {
    "nothing": ({}, ConfigError, "evidence must be one kind"),
    "two kinds": ({"before": X, "after": X, "inv_freq": X}, ConfigError, "evidence must be one"),
    "half of one": ({"before": X}, ShapeError, "after must be given with 'before', got none"),
    "shapes": ({"before": X, "after": X[:1]}, ShapeError, "of the shape of 'before'"),
    "dtypes": ({"before": X, "after": X.half()}, ShapeError, "of the dtype of 'before', float32"),
    "ranks": ({"before": X[0, 0], "after": X[0, 0]}, ShapeError, r"before must be \[B, S, H, D\]"),
    "no tokens": ({"before": X[:, :0], "after": X[:, :0]}, ShapeError, "at least one token"),
    "positions": ({"before": X, "after": X, "positions": [1]}, ShapeError, "before has 24 tokens"),
    "mistakes": ({"before": X, "after": X, "max_mistakes": 3}, ConfigError, "must be 1 or 2"),
    "tolerance": ({"before": X, "after": X, "tolerance": 0}, ConfigError, "a number above 0"),
    "large": ({"before": X, "after": X, "tolerance": 1e300}, ConfigError, "at most 1,000,000"),
    "attention": ({"before": X, "after": X, "sinks": X}, ConfigError, "sinks must be absent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_evidence(name: str) -> None:
    arguments, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        diagnose(ROPE, **arguments)  # type: ignore[arg-type]
