"""Released config.json files: every layer is read as transformers' own classes read it."""

import pytest
import torch

from rope_core import Rotate, resolve, rotate
from tests.real_configs.own_model import FOLDER, OwnModel, contents
from tests.transformers_live import rotated

NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))

WITHOUT_ROPE = [name for name in NAMES if contents(name)["model_type"] in ("nemotron_h", "kimi_k3")]
"""Nemotron-H and Kimi-K3 (`mla_use_nope`) have no rotation in any layer."""

ROTATING = [name for name in NAMES if name not in WITHOUT_ROPE]

WITH_VISION = [
    name
    for name in ROTATING
    if isinstance(contents(name).get("vision_config"), dict)
    or contents(name)["model_type"] in ("llama4", "step3p7")
]
"""Files of models that see images; those of Llama 4 and Step-3.7 leave that part to the class."""

TOKENS = torch.tensor([0, 1, 2, 63, 4095, 65537, 131071])


def kinds_of_layers(name):
    """Return the first layer of each type that rotates, and of each that does not."""
    layers = OwnModel.of(name, "text").layers()
    return [layers.index(kind) for kind in dict.fromkeys(layers)]


def heads(head_dim, tokens, dtype=torch.float32):
    """Return q and k `[1, S, H, D]`."""
    generator = torch.Generator().manual_seed(head_dim)
    return (
        torch.randn(1, tokens, num_heads, head_dim, generator=generator).to(dtype)
        for num_heads in (3, 1)
    )


def test_there_are_86_files():
    assert len(NAMES) == 86


@pytest.mark.parametrize("name", ROTATING)
def test_types_of_all_layers_and_which_rotate(name):
    expected = OwnModel.of(name, "text").layers()
    no_op = [
        index
        for index, block in enumerate(contents(name).get("block_configs", ()))
        if block["attention"]["no_op"]
    ]
    for index in no_op:
        expected[index] = (expected[index][0], False)
    actual = {
        layer: (group.layer_type, group.nope is None)
        for group in resolve(contents(name), layer=0).layers
        for layer in group.layers
    }
    if {layer_type for layer_type, _ in actual.values()} == {None}:  # all layers are alike
        assert len({layer_type for layer_type, _ in expected}) == 1
        expected = [(None, rotates) for _, rotates in expected]
    assert [actual[layer] for layer in sorted(actual)] == expected


@pytest.mark.parametrize("name", ROTATING)
def test_rotation_of_each_kind_of_layer(name):
    own = OwnModel.of(name, "text")
    for layer in kinds_of_layers(name):
        resolved = resolve(contents(name), layer=layer)
        layer_type, rotates = own.layers()[layer]
        assert (resolved.rope is None) == (not rotates)
        rope = resolved.rope
        if rope is None:
            continue
        assert rope.attention_scaling == own.rotary.attention_scaling(layer_type)
        torch.testing.assert_close(rope.inv_freq, own.rotary.inv_freq(layer_type), rtol=0, atol=0)
        axes = [TOKENS, TOKENS // 3, TOKENS // 7][: rope.num_axes]
        positions = torch.stack(axes)[:, None] if rope.num_axes > 1 else TOKENS[None]
        off = 5e-7 if rope.rounding == "complex" else 0
        for dtype in (torch.float32, torch.bfloat16):
            q, k = heads(rope.head_dim, len(TOKENS), dtype)
            actual = rotate(Rotate(q, k, rope, positions))
            expected = own.rotated(q, k, positions, layer_type)
            for x, same in zip((actual.q, actual.k), expected, strict=True):
                torch.testing.assert_close(x, same, rtol=0, atol=off)


@pytest.mark.parametrize("name", ROTATING)
def test_scale_and_window_of_each_kind_of_layer(name):
    own = OwnModel.of(name, "text")
    for layer in kinds_of_layers(name):
        layer_type, _ = own.layers()[layer]
        if layer_type == "linear_attention":
            continue
        resolved = resolve(contents(name), layer=layer)
        config = resolved.attention
        if resolved.rope is not None:
            scale = resolved.rope.head_dim**-0.5 if config.scale is None else config.scale
            assert scale == pytest.approx(own.rotary.softmax_scale(layer), rel=1e-12)
        is_windowed = "sliding" in (layer_type or "")
        assert config.window == (own.config.sliding_window if is_windowed else None)
        is_chunked = layer_type == "chunked_attention"
        assert config.chunk == (own.config.attention_chunk_size if is_chunked else None)
        assert config.causal


@pytest.mark.parametrize("name", WITH_VISION)
def test_rotation_of_the_vision_part(name):
    own, resolved = OwnModel.of(name, "vision"), resolve(contents(name), part="vision")
    rope, scale = resolved.rope, resolved.attention.scale
    assert (scale or rope.head_dim**-0.5) == own.rotary.softmax_scale(0)
    assert not resolved.attention.causal
    match own.family:
        case "llama4":
            off = 5e-7
            side = own.config.image_size // own.config.patch_size
            patches = torch.arange(side**2)
            grid = torch.stack((patches % side + 1, patches // side + 1))
            positions = torch.cat((grid, torch.zeros(2, 1, dtype=grid.dtype)), 1)[:, None]
            q, k = heads(rope.head_dim, side**2 + 1)
            expected = own.code.vision_apply_rotary_emb(q, k, own.rotary.module(q))
        case family:
            off = 0
            axes = [torch.arange(12) % 4, torch.arange(12) // 4, torch.arange(12) % 5]
            positions = torch.stack(axes[: rope.num_axes])[:, None]
            q, k = heads(rope.head_dim, 12)
            tokens = positions[:, 0].T
            apply = "multidim" if family == "gemma4" else "vision"
            table = own.rotary.tables(q, tokens[None] if family == "gemma4" else tokens)
            turned = rotated(own.code, apply, q.transpose(1, 2), k.transpose(1, 2), table)
            expected = [x.transpose(1, 2) for x in turned]
    actual = rotate(Rotate(q, k, rope, positions))
    for x, same in zip((actual.q, actual.k), expected, strict=True):
        torch.testing.assert_close(x, same, rtol=0, atol=off)


@pytest.mark.parametrize("name", WITHOUT_ROPE)
def test_a_model_without_rotation_says_why(name):
    for layer in (None, 0, 7):
        resolved = resolve(contents(name), layer=layer)
        assert resolved.rope is None
        assert resolved.nope
