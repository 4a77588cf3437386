"""Indexers of sparse attention: the part of a model that chooses keys, with a rotation of its own.

The rules are those of DeepSeek's inference code and of the classes `*Indexer` in transformers.
"""

import pytest
import torch

from rope_core import RopeConfig, Rotate, rotate
from rope_core.errors import ConfigError
from rope_core.hf import resolve
from rope_core.hf.families import families
from tests.core.remote_oracle import POSITIONS, check, inv_freq, turn, yarn

INDEXERS = {  # order of channels, whether the first channels rotate, base of the class
    "axk2": ("half", True, 1e4),
    "deepseek_v32": ("half", True, 1e4),
    "dots3_note": ("permuted", True, 8e7),
    "glm_moe_dsa": ("permuted", True, 1e4),
    "hy_v4": ("half", False, 1e4),
}
WIDTHS = {"qk_rope_head_dim": 64, "index_head_dim": 128}


def test_all_are_here():
    indexers = {family.module for family in families().values() if family.part == "indexer"}
    assert indexers == {*INDEXERS, "mistral_large4"}


@pytest.mark.parametrize("model_type", INDEXERS)
def test_channels_that_rotate(model_type):
    order, leading, base = INDEXERS[model_type]
    config = {"model_type": model_type, **WIDTHS}
    rope = resolve(config, part="indexer", layer=0, arithmetic="float64").rope
    x = torch.randn(len(POSITIONS), 2, 128, generator=torch.Generator().manual_seed(0))
    rotated = rotate(Rotate(x, None, rope, positions=POSITIONS)).q.double()
    first = slice(0, 64) if leading else slice(64, 128)
    rest = slice(64, 128) if leading else slice(0, 64)
    expected = turn(x[..., first], inv_freq(64, base), order=order)
    torch.testing.assert_close(rotated[..., first], expected, rtol=0, atol=1e-6)
    assert torch.equal(rotated[..., rest], x[..., rest].double())
    assert resolve(config, layer=0).rope.head_dim == 64, "heads are as without a part"


def test_indexer_of_mistral_large_4():
    """Frequencies have learned factors, as those of the heads, and the same layers rotate."""
    config = {"model_type": "mistral_large4", **WIDTHS}
    ropes = [resolve(config, part=part, layer=0).rope for part in ("indexer", "text")]
    assert ropes[0].inv_freq.equal(ropes[1].inv_freq)
    assert isinstance(ropes[0], RopeConfig)
    assert {rope.learned for rope in ropes} == {"log_scale"}
    assert [resolve(config, part="indexer", layer=i).rope is None for i in range(4)] == [
        *(False, False, False, True)
    ]


def test_frequencies_are_those_of_the_heads():
    scaling = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}
    config = {
        "model_type": "deepseek_v32",
        "rope_theta": 10000,
        "max_position_embeddings": 163840,
        "rope_scaling": scaling | {"mscale": 1.0, "mscale_all_dim": 1.0},
        **WIDTHS,
    }
    check(config, yarn(64, 1e4, 40, 4096), width=128, part="indexer")


def test_layers_without_an_indexer():
    types = {"indexer_types": ["full", "shared"], "num_hidden_layers": 2}
    glm = {"model_type": "glm_moe_dsa", **types}
    assert resolve(glm, part="indexer", layer=0).rope is not None
    assert "shared" in resolve(glm, part="indexer", layer=1).nope
    assert "no indexer" in resolve({"model_type": "dots3_note"}, part="indexer", layer=2).nope
    with pytest.raises(ConfigError, match="indexer_types"):
        resolve(glm | {"indexer_types": ["full"]}, part="indexer", layer=1)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "llama"])
def test_models_without_an_indexer_refuse_the_part(model_type):
    with pytest.raises(ConfigError, match="part must be one of"):
        resolve({"model_type": model_type}, part="indexer")
