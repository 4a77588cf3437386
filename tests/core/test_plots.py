"""The figures hold the numbers of the ropes; how they look is for people to judge."""

import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes

from rope_core import ConfigError, RopeConfig, plots, resolve, rotate
from rope_core.diagnosis.result import Diagnosis, Difference
from rope_core.plots.figure import spread
from rope_core.plots.number_text import decade_text, number_text
from rope_core.plots.similarity import rotated_cosine, self_score

mpl.use("Agg")

VARIANTS = {
    "default": "llama-2-7b",
    "partial": "glm-4.5",
    "trailing interleaved": {"preset": "glm-4-9b-chat"},
    "linear": "llama-2-7b-32k",
    "llama3": "llama-3.1-8b",
    "yarn": "gpt-oss-20b",
    "read and written in two layouts": "deepseek-v3",
    "ntk_mixed": "gte-multilingual-base",
    "ntk_alpha": "hunyuan-7b-instruct",
    "dynamic": "internlm2.5-20b-chat",
    "dynamic_alpha": "qwen-7b",
    "longrope": "phi-3-mini-128k-instruct",
    "xpos": {"head_dim": 64, "rope_type": "xpos"},
    "own frequencies": {"inv_freq": [1.0, 0.5, 0.0, 0.25]},
}


@pytest.fixture
def ax() -> Iterator[Axes]:
    yield pyplot.figure().add_subplot()
    pyplot.close("all")


def line(ax: Axes, name: str) -> np.ndarray:
    """Return the points of the line with that name."""
    return next(line.get_xydata() for line in ax.get_lines() if line.get_label() == name)


def texts(ax: Axes) -> set[str]:
    return {text.get_text().replace("\u2009", " ") for text in ax.texts}


@pytest.mark.parametrize("rope", VARIANTS.values(), ids=VARIANTS)
def test_wavelengths_are_those_of_the_frequencies(ax, rope):
    assert plots.wavelengths(rope, ax) is ax
    expected = resolve(rope, arithmetic="float64") if isinstance(rope, str) else resolve(rope)
    turning = [(i, 2 * math.pi / f) for i, f in enumerate(expected.inv_freq.tolist()) if f]
    drawn = [*ax.get_lines()][-2 if ax.get_lines()[-1].get_label() == "_at rest" else -1]
    np.testing.assert_allclose(drawn.get_xydata(), turning, rtol=1e-6)


def test_wavelengths_name_the_bands_the_lengths_and_the_unscaled_row(ax):
    plots.wavelengths("llama-3.1-8b", ax)
    assert {"29 kept", "6 blended", "29 divided by 8"} <= texts(ax)
    assert {"trained 8 192", "allowed 131 072", "as configured", "without scaling"} <= texts(ax)
    plain = 2 * math.pi * 500_000 ** (np.arange(64) / 64)
    np.testing.assert_allclose(line(ax, "without scaling")[:, 1], plain, rtol=1e-6)
    assert line(ax, "_trained")[0, 1] == 8_192
    assert line(ax, "_allowed")[0, 1] == 131_072


def test_wavelengths_have_a_line_for_calls_of_another_length(ax):
    plots.wavelengths("phi-3-mini-128k-instruct", ax)
    rope = resolve("phi-3-mini-128k-instruct", arithmetic="float64").rope
    for name, length in (("calls up to 4 096", 4_096), ("calls above 4 096", 4_097)):
        expected = 2 * math.pi / rope.for_length(length).inv_freq
        drawn = line(ax, name.replace(" 096", "\u2009096"))
        np.testing.assert_allclose(drawn[:, 1], expected, rtol=1e-6)


def test_wavelengths_of_several_axes_have_a_line_for_each(ax):
    plots.wavelengths("qwen2-vl-7b-instruct", ax)
    pairs = [line(ax, f"{axis}, {n} pairs")[:, 0] for axis, n in (("time", 16), ("height", 24))]
    assert [pair for row in pairs for pair in row] == [*range(40)]


def test_pairs_at_rest_are_on_the_lower_edge(ax):
    rope = RopeConfig.of(512, rope_type="proportional", partial_rotary_factor=0.25)
    plots.wavelengths(rope, ax)
    assert {"64 turn", "192 do not turn"} <= texts(ax)
    at_rest = line(ax, "_at rest")
    assert at_rest[:, 0].tolist() == [*range(64, 256)]
    assert set(at_rest[:, 1]) == {ax.get_ylim()[0]}


def test_layers_that_rotate_in_two_ways_have_axes_each():
    axes = plots.wavelengths("gemma-3-4b-pt").figure.axes
    try:
        assert len(axes) == 2
        bases = sorted(
            float(line(ax, name)[-1, 1]) for ax, name in zip(axes, last_names(axes), strict=True)
        )
        expected = [10_000 ** (127 / 128), 8 * 1_000_000 ** (127 / 128)]
        np.testing.assert_allclose(bases, 2 * math.pi * np.array(expected), rtol=1e-5)
    finally:
        pyplot.close("all")


def last_names(axes: list[Axes]) -> list[str]:
    return [
        [line.get_label() for line in ax.get_lines() if line.get_label() != "_at rest"][-1]
        for ax in axes
    ]


def test_a_layer_that_does_not_rotate_is_refused(ax):
    for draw in (plots.wavelengths, plots.score):
        with pytest.raises(ConfigError, match="rotates"):
            draw("mpt-7b", ax)
    with pytest.raises(ConfigError, match="rotates"):
        plots.wavelengths("mpt-7b")


def test_the_score_is_the_mean_over_pairs_at_every_distance(ax):
    rope = RopeConfig.of(16, rotary_dim=8, theta=100.0)
    curve = self_score(rope, 5_000)
    distance = np.arange(1, 5_001)
    angles = np.outer(distance, 100.0 ** (-np.arange(4) / 4))
    expected = (2 * np.cos(angles).sum(1) + 8) / 16
    starts = np.append(curve.position, 5_001) - 1
    for i, (start, stop) in enumerate(itertools.pairwise(starts)):
        column = expected[start:stop]
        got = [float(row[i]) for row in (curve.lowest, curve.highest, curve.mean)]
        np.testing.assert_allclose(got, [column.min(), column.max(), column.mean()], atol=1e-9)
    plots.score(rope, ax)
    assert line(ax, "as configured")[0, 1] == pytest.approx(expected[0])


ROPES = {
    "half": RopeConfig(head_dim=32),
    "interleaved": RopeConfig(head_dim=32, layout="interleaved"),
    "interleaved_to_half": RopeConfig(head_dim=32, layout="interleaved_to_half"),
    "interleaved_tiled": RopeConfig(head_dim=32, layout="interleaved_tiled"),
    "base": RopeConfig(head_dim=32, theta=500.0),
    "negative": RopeConfig(head_dim=32, negative=True),
    "partial": RopeConfig(head_dim=32, rotary_dim=16),
    "trailing": RopeConfig(head_dim=32, rotary_dim=16, trailing=True),
    "blocks": RopeConfig(head_dim=32, blocks=2),
}


@pytest.mark.parametrize("other", ROPES.values(), ids=ROPES)
def test_the_cosine_is_that_of_rotated_vectors(other):
    """Of all vectors: one-hot vectors give every element of both matrices."""
    rope = ROPES["half"]
    one_hot = torch.eye(32).expand(40, 32, 32)  # [T, H, D]
    matrices = [rotate(one_hot, positions=range(1, 41), rope=r).double() for r in (rope, other)]
    expected = (matrices[0] * matrices[1]).sum((1, 2)) / 32
    got = rotated_cosine(rope, other, 40)
    assert got.position.tolist() == [*range(1, 41)]
    torch.testing.assert_close(got.mean, expected, atol=1e-5, rtol=0)
    same = rotated_cosine(other, other, 40)
    torch.testing.assert_close(same.mean, torch.ones_like(same.mean))


def test_compare_draws_the_ratio_and_the_cosine():
    rope = resolve("llama-2-7b").rope
    other = replace(rope, theta=1_000.0)
    try:
        left, right = plots.compare("llama-2-7b", other)
        expected = 10.0 ** (np.arange(64) / 64)
        np.testing.assert_allclose(line(left, "B / A")[:, 1], expected, rtol=1e-5)
        difference = 1e4 ** -(np.arange(64) / 64) - 1e3 ** -(np.arange(64) / 64)
        assert line(right, "cosine")[0, 1] == pytest.approx(np.cos(difference).mean(), abs=1e-6)
        at_trained = np.cos(4_096 * difference).mean()
        assert line(right, "_value")[0].tolist() == pytest.approx([4_096, at_trained], abs=1e-3)
        with pytest.raises(ConfigError, match="head_dim 128"):
            plots.compare("llama-2-7b", RopeConfig(head_dim=64))
    finally:
        pyplot.close("all")


def test_a_diagnosis_shows_the_tensors_that_it_has():
    error = Difference(relative=0.1, max_abs=1.0, tolerance=1e-4, first_position=1.0, worst=None)
    by_pair = torch.tensor([0.5, float("nan"), 0.0])
    found = Diagnosis(verdict="unexplained", error=error, tensors={"error_by_pair": by_pair})
    try:
        (ax,) = plots.diagnosis(found)
        assert ax.get_title(loc="left") == "Unexplained"
        np.testing.assert_allclose(line(ax, "error")[:, 1], [0.5, 1e-6, 1e-6], rtol=1e-6)
        frequencies = {"inv_freq": torch.tensor([1.0, 0.5]), "inv_freq_expected": torch.ones(2)}
        (ax,) = plots.diagnosis(replace(found, tensors=frequencies))
        turns = line(ax, "measured")[:, 1]
        np.testing.assert_allclose(turns, [2 * math.pi, 4 * math.pi], rtol=1e-6)
        with pytest.raises(ConfigError, match="rotation"):
            plots.diagnosis(replace(found, tensors={}))
    finally:
        pyplot.close("all")


def test_a_figure_is_saved_by_its_suffix_with_its_title(ax, tmp_path):
    plots.wavelengths("llama-3.1-8b", ax)
    plots.save(ax, tmp_path / "a.svg")
    assert ">llama-3.1-8b</text>" in (tmp_path / "a.svg").read_text()
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        plots.save(ax, tmp_path / f"a.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes().startswith(magic)
    with pytest.raises(ConfigError, match=r"\.svg, \.png, \.pdf"):
        plots.save(ax, tmp_path / "a.gif")


def test_no_setting_of_matplotlib_changes(ax, tmp_path):
    before = dict(mpl.rcParams)
    plots.wavelengths("llama-3.1-8b", ax)
    plots.save(ax, tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'rope-service\[plot\]'"):
        plots.wavelengths("llama-3.1-8b")


@pytest.mark.parametrize("centres", [[0.0, 0.0, 0.0], [0.2, 0.5, 0.52], [0.9, 0.95, 1.0]])
def test_names_are_moved_apart(centres):
    placed = spread(centres, [0.1] * 3, 0.0, 1.0)
    assert np.diff(placed).min() >= 0.1 - 1e-9
    assert placed[0] >= 0.05 - 1e-9
    assert placed[-1] <= 0.95 + 1e-9


def test_numbers_are_written_with_thin_spaces_and_superscripts():
    assert number_text(131_072) == "131\u2009072"
    assert number_text(-0.5) == "\u22120.5"
    assert number_text(2e-5) == "2\u2009\u00d7\u200910\u207b\u2075"
    assert [decade_text(n) for n in (1e-5, 100.0, 1e4, 1e6)] == [
        "10\u207b\u2075",
        "100",
        "10\u2009k",
        "1\u2009M",
    ]
