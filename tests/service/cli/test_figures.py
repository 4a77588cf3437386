"""`-o` writes the figures of the library, in the format of the suffix."""

import pytest
import torch
from safetensors.torch import save_file

import rope_core

pytest.importorskip("matplotlib")


def test_the_title_is_the_name(cli, tmp_path):
    file = tmp_path / "x.svg"
    assert cli("inspect", "llama-3.1-8b", "-o", file).code == 0
    assert "llama-3.1-8b" in file.read_text()


def test_a_figure_of_a_diagnosis(cli, tmp_path):
    q = torch.randn(1, 32, 1, 64, generator=torch.Generator().manual_seed(0))
    tensors = {"before": q, "after": rope_core.rotate(q, rope={"theta": 5e5})}
    save_file(tensors, tmp_path / "x.safetensors")
    file = tmp_path / "x.svg"
    rope = "--rope", '{"theta": 1e4}'
    assert cli("diagnose", tmp_path / "x.safetensors", *rope, "-o", file).code == 1
    assert "<svg" in file.read_text()


def test_a_figure_of_a_comparison(cli, tmp_path, monkeypatch):
    """The figure itself takes two seconds, and has tests of its own."""
    drawn = []

    def compare(a, b):
        drawn.append((a, b))
        return [rope_core.plots.wavelengths(a)]

    monkeypatch.setattr("rope_core.plots.compare", compare)
    own = '{"head_dim": 64}'
    assert cli("compare", "llama-3.2-1b", own, "-o", tmp_path / "x.svg").code == 1
    assert "<svg" in (tmp_path / "x.svg").read_text()
    assert drawn == [("llama-3.2-1b", rope_core.RopeConfig.of(64))]


@pytest.mark.parametrize(
    ("config", "file", "text"),
    [
        ("llama-3.1-8b", "x.gif", ".svg, .png, .pdf"),
        ("llama-3.1-8b", "none/x.svg", "cannot write"),
        ('{"model_type": "bloom", "n_head": 4, "hidden_size": 64}', "x.svg", "rotate"),
    ],
)
def test_a_figure_that_cannot_be_written(cli, tmp_path, config, file, text):
    ended = cli("inspect", config, "-o", tmp_path / file)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert text in ended.err
