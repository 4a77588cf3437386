"""The sentences about a rope, and the HTML of a resolved rope."""

import json
import re
import xml.dom.minidom

import pytest

from rope_core import ConfigError, RopeConfig, layer_kinds, model_summary, resolve, summary
from rope_core.presets import built_in
from rope_core.scaling import scaling
from rope_core.sentences import number
from tests.conftest import ROOT

PLAIN = "64 pairs turn in each head of 128. No frequency is scaled (base 10 000)"
OF_MODEL = {
    "llama-3.1-8b": (
        "64 pairs turn in each head of 128. 29 keep their frequency, 6 are blended, 29 are divided "
        "by 8: trained on 8 192 positions, the model is allowed 131 072. cos and sin have no gain; "
        "all 32 layers are alike."
    ),
    "gpt-oss-20b": (
        "32 pairs turn in each head of 64. 9 keep their frequency, 9 are blended, 14 are divided "
        "by 32: trained on 4 096 positions, the model is allowed 131 072. cos and sin have a gain "
        "of 1.347; all 24 layers rotate alike."
    ),
    "gemma-3-27b-it": (
        f"52 of 62 layers (sliding_attention): {PLAIN}: the model is allowed 131 072 positions. "
        "cos and sin have no gain.\n"
        "10 of 62 layers (full_attention): 64 pairs turn in each head of 128. All frequencies are "
        "divided by 8 (base 1 000 000): the model is allowed 131 072 positions. cos and sin have "
        "no gain."
    ),
    "smollm3-3b": (
        "27 of 36 layers (full_attention): 64 pairs turn in each head of 128. No frequency is "
        "scaled (base 5 000 000): the model is allowed 65 536 positions. cos and sin have no gain."
        "\n9 of 36 layers (full_attention) do not rotate (no_rope_layers[3] is 0)."
    ),
    "mpt-7b": "No layer rotates (no rotary embedding: ALiBi).",
    "deepseek-v3": (
        "32 pairs turn in the part of each head that rotates, 64 channels wide. 11 keep their "
        "frequency, 12 are blended, 9 are divided by 40: trained on 4 096 positions, the model is "
        "allowed 163 840. cos and sin have no gain; all 61 layers are alike."
    ),
    "phi-3-mini-128k-instruct": (
        "48 pairs turn in each head of 96. All frequencies are divided by 1.1 to 3.05 "
        "(short_factor, base 10 000): trained on 4 096 positions, the model is allowed 131 072. In "
        "calls of more than "
        "4 096 positions all frequencies are divided by 1.07 to 64.76 (long_factor). cos and sin "
        "have a gain of 1.19; all 32 layers are alike."
    ),
    "internlm3-8b-instruct": (
        "64 pairs turn in each head of 128. No frequency is scaled (base 50 000 000): the model is "
        "allowed 32 768 positions. In calls of more than 32 768 positions the base grows with the "
        "length. cos and sin have no gain; all 48 layers are alike."
    ),
    "qwen2.5-7b-instruct-yarn": (
        "64 pairs turn in each head of 128. 24 keep their frequency, 16 are blended, 24 are "
        "divided by 4: trained on 32 768 positions, and the model is allowed the same number, "
        "although a factor of 4 reaches 131 072. cos and sin have a gain of 1.139; all 28 layers "
        "are alike."
    ),
}


@pytest.mark.parametrize("preset", OF_MODEL)
def test_models(preset):
    assert model_summary(layer_kinds(preset)) == OF_MODEL[preset]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, f"{PLAIN}. cos and sin have no gain."),
        (
            {"rotary_dim": 32},
            "16 pairs turn in each head of 128, in channels 0 to 31; the other 96",
        ),
        (
            {"rotary_dim": 32, "trailing": True},
            "in channels 96 to 127; the other 96 channels do not",
        ),
        (
            {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
            "16 of 64 pairs turn in each head of 128; the other 48 have frequency 0. All",
        ),
        (
            {"axes": "mrope", "mrope_section": (16, 24, 24)},
            "A position has 3 numbers: 16 pairs turn by time, 24 by height and 24 by width.",
        ),
        (
            {"axes": "axial", "axes_dim": (32, 96)},
            "A position has 2 numbers: 16 pairs turn by axis 0 and 48 by axis 1.",
        ),
        ({"axes": "xdrope", "xdrope_section": (32, 32)}, "This is no rotation"),
        ({"axes": "timestamps"}, "each angle depends on more than one"),
        (
            {"axes": "interpolated", "interpolate_factor": 4.0},
            "All frequencies are divided by 4 (base 10 000)",
        ),
        (
            {"rope_type": "ntk", "factor": 4.0},
            "1 keeps its frequency, 63 are divided by 1.022 to 4",
        ),
        ({"inv_freq": [0.5, 0.0] * 32}, "32 of 64 pairs turn in each head of 128; the other 32"),
        ({"inv_freq": [0.5] * 64}, "The frequencies are given one by one."),
        ({"inv_freq": [0.5] * 64, "attention_factor": 1.5}, "cos and sin have a gain of 1.5."),
        ({"negative": True}, "All pairs turn backwards: angles are negative."),
        ({"rope_type": "xpos"}, "The scale of q and k also depends on the position."),
        ({"learned": "frequencies"}, "The frequencies are weights of the model"),
        ({"learned": "log_scale"}, "Each call must contain a factor for each frequency."),
        ({"values": "and_back"}, "Values are rotated as keys are, and the output is rotated back."),
        (
            {
                "rope_type": "dynamic_alpha",
                "original_max_position_embeddings": 100,
                "length": 300,
            },
            "These frequencies are for calls of more than 200 and up to 400 positions.",
        ),
    ],
)
def test_parameters(parameters, words):
    sentences = summary(resolve(RopeConfig.of(128, **parameters)))
    assert words in sentences
    assert sentences.endswith(".")


REAL_CONFIGS = ROOT / "tests" / "real_configs" / "configs"


def test_every_config_has_true_sentences():
    configs = {name: preset.config for name, preset in [*built_in().items()][::10]}
    files = sorted(REAL_CONFIGS.glob("*.json"))[::10]
    configs |= {file.stem: json.loads(file.read_text()) for file in files}
    for name, config in configs.items():
        kinds = layer_kinds({"config": config})
        lines = model_summary(kinds).split("\n")
        assert len(lines) == (
            1 if all(kind.resolved.rope is None for kind in kinds) else len(kinds)
        )
        layers = sorted(layer for kind in kinds for layer in kind.layers)
        assert layers == [*range(len(layers))], name
        for kind, line in zip(kinds, lines, strict=False):
            assert not re.search(r"None|nan|inf\b|\{|\}|  |\.\.", line), line
            if (rope := kind.resolved.rope) is None:
                assert "rotate" in line
                continue
            counts, numbers = scaling(rope), line.replace(" ", "")
            turning = counts.kept + counts.blended + counts.divided
            assert re.search(rf"\b{turning} (of {rope.half} )?pairs turn", line)
            if rope.rope_type in ("yarn", "llama3"):
                assert f"{counts.kept} keep" in line
                assert f"{counts.divided} are divided by {number(counts.factor)}" in line
            for length in vars_of(kind.resolved.lengths):
                assert length is None or str(length) in numbers or "the same number" in line


def vars_of(lengths):
    return {lengths.trained, lengths.allowed}


def test_one_layer_of_a_model():
    full = summary(resolve("gemma-3-27b-it", layer=5))
    assert full.endswith("10 of 62 layers are like this (full_attention).")
    alike = summary(resolve("llama-3_3-nemotron-super-49b-v1", layer=0))
    assert alike.endswith("49 of 80 layers are like this.")
    nope = summary(resolve("smollm3-3b", layer=3))
    assert nope == "This layer does not rotate (no_rope_layers[3] is 0)."
    assert "27 of 36 layers rotate in this way, the others do not rotate." in summary(
        resolve("smollm3-3b")
    )
    whole = summary(resolve("deepseek-v3", head_dim=192))
    assert "in channels 128 to 191; the other 128 channels do not turn" in whole


def test_layer_kinds():
    kinds = layer_kinds("gemma-3-27b-it")
    assert [len(kind.layers) for kind in kinds] == [52, 10]
    assert [kind.resolved.rope.rope_type for kind in kinds] == ["default", "linear"]
    assert kinds[1].layers[0] == 5
    layer = {"preset": "gemma-3-27b-it", "layer": 5}
    for rope in (RopeConfig.of(64), layer, resolve(layer)):
        (kind,) = layer_kinds(rope)
        assert kind.layers == ()
    with pytest.raises(ConfigError, match="no-such"):
        layer_kinds("no-such.json")
    many = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 1}
    (kind,) = layer_kinds({**many, "num_hidden_layers": 9999})
    assert len(kind.layers) == 9999


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (131_072, "131 100"),
        (8.0, "8"),
        (1.3465735902799727, "1.347"),
        (0.5, "0.5"),
        (1e-6, "1e-06"),
        (999_999.6, "1 000 000"),
        (0, "0"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_html_of_a_resolved_rope():
    html = resolve("llama-3.1-8b")._repr_html_()
    xml.dom.minidom.parseString(html)
    assert OF_MODEL["llama-3.1-8b"] in html
    assert html.count("<circle") == 64
    assert "rope_scaling.rope_type" in html
    assert "trained" in html
    for rope in ("mpt-7b", RopeConfig.of(2), RopeConfig.of(64, inv_freq=[0.0] * 32)):
        xml.dom.minidom.parseString(resolve(rope)._repr_html_())
    hostile = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 1}
    hostile |= {"rope_scaling": {"type": "linear", "factor": 2.0, "<script>alert(1)</script>": 1}}
    assert "<script>" not in resolve(hostile)._repr_html_()
