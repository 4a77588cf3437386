"""The table of families: its rows, their rules, and an empty config of each."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from rope_core.axes import SCHEMES
from rope_core.errors import ConfigError
from rope_core.hf import oddities, resolve
from rope_core.hf.families import RULES, TABLES, diffusers_classes, families, model_type_aliases

INCOMPLETE = {
    **dict.fromkeys(
        ("bailing_moe", "gte_new", "hunyuan", "internlm", "internlm2", "qwen"),
        "hidden_size",
    ),
    **dict.fromkeys(("nemotron_nas", "orion", "xverse"), "hidden_size"),
    "meta_params": "dim",
    "mistral_mla_params": "qk_rope_head_dim",
    "mistral_params": "dim",
    "mistral_params_vision": "hidden_size",
    "nomic_bert_remote": "n_embd",
    "glm4_moe": "head_dim",
    "glm4v_moe_text": "head_dim",
    "glm4v_text": "rope_parameters.mrope_section",
    "glm_image_text": "rope_parameters.mrope_section",
    "oned": "dim",
    "qwen3_omni_moe_talker_text": "rope_parameters.mrope_section",
    "qwen3_omni_moe_text": "head_dim",
    "qwen4_exp_text": "rope_parameters.mrope_section",
    "rotary_embedding_torch": "dim",
}
"""Families that refuse an empty config, and the key that is missing."""

STILL = ("bert_alibi", "jais", "mpt", "step1")
"""Families whose empty config does not rotate."""


SWITCHED_ON = {
    "esm": {"position_embedding_type": "rotary"},
    "granitemoehybrid": {"position_embedding_type": "rope"},
    "seamless_m4t": {"position_embeddings_type": "rotary"},
    "wav2vec2-bert": {"position_embeddings_type": "rotary"},
    "wav2vec2-conformer": {"position_embeddings_type": "rotary"},
    "zamba2": {"use_mem_rope": True},
}
"""Keys that switch the rotation on, of families that do not rotate by default."""


def test_table_has_one_row_per_line_sorted_by_name():
    tables = []
    for table in TABLES:
        first, *lines, last = (files("rope_core.hf") / table).read_text().splitlines()
        assert (first, last) == ("{", "}")
        rows = [json.loads("{" + line.strip().rstrip(",") + "}") for line in lines]
        tables.append([name for row in rows for name in row])
        assert tables[-1] == sorted(tables[-1])
        assert len(tables[-1]) == len(lines)
    assert [*families()] == sorted(tables[0] + tables[1])
    assert {name for name, family in families().items() if family.source} == {*tables[1]}


def test_schemes_and_aliases_of_rows_exist():
    for family in families().values():
        assert family.axes in (None, "axial_thirds", *SCHEMES)
        assert family.for_version("4.57").name == family.name
    aliases = {**model_type_aliases(), **diffusers_classes()}
    assert {*aliases.values()} <= {*families()}
    assert not {*aliases} & {*families()}


def test_every_rule_names_its_family():
    rules = {getattr(family, name) for family in families().values() for name in RULES} - {None}
    rules |= {rule for family in families().values() for rule in family.oddities.values()}
    assert len(rules) > 50
    assert all(": " in (rule.__doc__ or "").partition("\n")[0] for rule in rules)


def test_every_oddity_belongs_to_a_step_that_is_called():
    """A step with a wrong name would never be called."""
    sources = "".join(file.read_text() for file in Path(oddities.__file__).parent.glob("*.py"))
    called = set(re.findall(r"step\(\s*\"(\w+)\"", sources))
    listed = set(re.findall(r"^    (\w+) +\w+\.py", oddities.__doc__, re.MULTILINE))
    used = {step for family in families().values() for step in family.oddities}
    assert used == listed == called


@pytest.mark.parametrize("compat", ["5.23", "4.57"])
@pytest.mark.parametrize("name", list(families()))
def test_empty_config_of_every_family(name, compat):
    family = families()[name]
    layer_type = next(iter(family.rope_parameters_by_type), None)
    config = {"model_type": name, **SWITCHED_ON.get(name, {})}
    if name in INCOMPLETE:
        with pytest.raises(ConfigError) as caught:
            resolve(config, compat=compat)
        assert caught.value.parameter == INCOMPLETE[name]
        return
    resolved = resolve(config, layer_type=layer_type, compat=compat)
    assert resolved.model_type == name
    assert resolved.attention.causal == family.causal
    assert (resolved.rope is None) == (name in STILL)
    if name in STILL:
        return
    assert resolved.rope.rounding == family.for_version(compat).rounding


@pytest.mark.parametrize(
    ("model_type", "config", "width"),
    [
        ("hrm_text", {}, 128),
        ("higgs_audio_v2", {}, 128),
        ("neucodec", {}, 64),
        ("xcodec2", {}, 64),
        ("deepseek_ocr2_text", {"head_dim": 32}, 48),
        ("unlimited_ocr_text", {"head_dim": 32}, 48),
    ],
)
def test_head_dim_default_of_a_class(model_type, config, width):
    """A default head_dim counts even if it equals hidden_size // heads of the class."""
    sizes = {"hidden_size": 384, "num_attention_heads": 8}
    assert resolve(sizes | config, model_type=model_type).rope.head_dim == width


@pytest.mark.parametrize("model_type", ["ministral3", "pe_video_encoder", "idefics"])
def test_default_frequencies_of_some_classes_ignore_partial_rotary_factor(model_type):
    block = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    resolved = resolve(
        {"head_dim": 128, "hidden_size": 256, "num_attention_heads": 2, "rope_parameters": block},
        model_type=model_type,
    )
    assert resolved.rope.rotary_dim == 128
    assert "ignored" in str(resolved.warnings)


@pytest.mark.parametrize("model_type", ["gptj", "roformer", "clvp_encoder", "vjepa2", "lumina2d"])
def test_heads_must_divide_hidden_size(model_type):
    with pytest.raises(ConfigError, match="no multiple of 7 heads"):
        resolve({"hidden_size": 1000, "num_attention_heads": 7}, model_type=model_type)


def test_null_head_dim_with_yarn_warns():
    block = {"rope_type": "yarn", "factor": 2.0}
    assert "head_dim is null" in str(
        resolve({"rope_scaling": block}, model_type="mixtral").warnings
    )
