"""Attention of whole models of transformers, recorded on the way into and out of each layer.

Queries and keys are rotated already. A layer is computed twice: with the mask that it was given,
and with parameters that say what the mask says.
"""

import dataclasses
import json
import math
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file

from rope_core import Attend, AttentionConfig, attend
from tests.conftest import ROOT
from tests.core.oracle import attended

FOLDER = ROOT / "tests" / "golden" / "attention"
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a recorded model."""

    model: dict
    described: dict
    tensors: dict
    inputs: dict

    @property
    def mask(self):
        """Numbers to add, the lowest finite one where nothing is seen; None if all is."""
        mask = self.tensors.get("mask")
        return None if mask is None else mask[..., : self.tensors["key"].shape[-2]]

    @property
    def heads(self):
        return {name[0]: self.tensors[name].transpose(1, 2) for name in ("query", "key", "value")}

    @property
    def given(self):
        return self.described["eager_kwargs"]


@lru_cache
def read(name):
    model = json.loads((FOLDER / f"{name}.json").read_text())
    tensors = load_file(FOLDER / f"{name}.safetensors")
    inputs = {n: t for n, t in tensors.items() if not n[0].isdigit()}
    return [
        Layer(
            model,
            layer,
            {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{index}.")},
            inputs,
        )
        for index, layer in enumerate(model["layers"])
    ]


NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
LAYERS = [
    pytest.param(layer, id=f"{name}-{i}") for name in NAMES for i, layer in enumerate(read(name))
]
every_layer = pytest.mark.parametrize("layer", LAYERS)


def check(layer, out):
    """Compare all rows but those that see nothing: there, transformers looks at all keys alike."""
    expected = layer.tensors["out"]
    rows = torch.ones(expected.shape[:2], dtype=torch.bool)
    if layer.mask is not None:
        rows = (layer.mask == 0).any(-1).all(1).expand(rows.shape)
    assert rows.sum() >= len(rows), "something is compared"
    torch.testing.assert_close(out[rows], expected[rows], rtol=0, atol=TOLERANCE)


@every_layer
@pytest.mark.parametrize("kind", ["numbers", "booleans"])
def test_with_the_mask_of_the_model(backend, layer, kind):
    mask = layer.mask
    if mask is not None and kind == "booleans":
        mask = mask == 0
    given = layer.given
    config = AttentionConfig(causal=False, scale=given["scaling"], softcap=given.get("softcap"))
    sinks = layer.tensors.get("sinks")
    call = Attend(**layer.heads, rope=None, attention=config, sinks=sinks, mask=mask)
    check(layer, attended(call, backend))


@every_layer
def test_with_parameters_in_place_of_the_mask(backend, layer):
    heads, config = layer.heads, parameters(layer)
    extra = {"sinks": layer.tensors.get("sinks"), "mask": padding(layer)}
    if layer.model["feature"].startswith("packed"):
        (positions,) = layer.inputs["position_ids"]
        starts = (positions.diff(prepend=positions[:1] - 2) != 1).nonzero().flatten()
        ends = torch.cat((starts, torch.tensor([len(positions)])))
        heads = {name: x[0] for name, x in heads.items()}
        extra |= {"cu_seqlens_q": ends, "cu_seqlens_k": ends}
    out = attended(Attend(**heads, rope=None, attention=config, **extra), backend)
    check(layer, out if out.ndim == 4 else out[None])


def parameters(layer):
    """Return what the model's config says of this layer."""
    given, config = layer.given, layer.model["config"]
    kind = layer.described["layer_type"]
    seen = {"causal": "bidirectional" not in layer.model["feature"]}
    window = given.get("sliding_window") if kind in (None, "sliding_attention") else None
    if window is not None:
        # of ModernBERT, transformers tells the operator of half of local_attention, and itself
        seen |= {"window": window, "window_ahead": 0 if seen["causal"] else window - 1}
    if kind == "chunked_attention":
        seen["chunk"] = config["attention_chunk_size"]
    return AttentionConfig(**seen, scale=given["scaling"], softcap=given.get("softcap"))


def padding(layer):
    """Return which keys are tokens, as a mask; None where all are."""
    tokens = layer.model["attention_mask"]
    num_keys = layer.tensors["key"].shape[-2]
    return None if tokens is None else torch.tensor(tokens).bool()[:, None, None, -num_keys:]


def test_what_is_recorded_is_what_is_meant():
    features = {layer.values[0].model["feature"] for layer in LAYERS}
    for word in ("sinks", "chunked", "bidirectional", "softcap", "padding", "packed", "decode"):
        assert any(word in feature for feature in features), word
    assert {layer.values[0].mask is None for layer in LAYERS} == {True, False}


def test_a_row_of_padding_is_all_that_differs():
    """transformers' lowest finite number makes of such a row the mean of all values; ours is 0."""
    layer = read("llama_left_padding")[0]
    blind = (layer.mask == 0).sum((1, -1)) == 0
    assert blind.any()
    config = AttentionConfig(scale=layer.given["scaling"])
    call = Attend(**layer.heads, rope=None, attention=config, mask=padding(layer), return_lse=True)
    answer = attend(call)
    assert not answer.out[blind].any()
    assert (answer.lse[blind] == -math.inf).all()
