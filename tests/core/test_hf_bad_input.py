"""Invalid configs: every config.json leads to an answer or to a ConfigError that names the key."""

import copy
import json
import math
import random

import pytest

from rope_core.errors import ConfigError
from rope_core.hf import resolve
from rope_core.hf.families import families
from rope_core.presets import built_in

LLAMA = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 4}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}


def error_of(config, **arguments):
    with pytest.raises(ConfigError) as caught:
        resolve(config, **arguments)
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", 7),
        ("model_type", ["llama"]),
        ("head_dim", 0),
        ("head_dim", -64),
        ("head_dim", 64.5),
        ("head_dim", "64"),
        ("head_dim", True),
        ("head_dim", 10**400),
        ("head_dim", float("nan")),
        ("hidden_size", "wide"),
        ("num_attention_heads", 0),
        ("num_hidden_layers", 10**9),
        ("rope_theta", "1e6"),
        ("rope_theta", 0),
        ("rope_theta", -1.0),
        ("rope_theta", [1e4, 1e6]),
        ("rope_theta", float("inf")),
        ("rope_theta", 10**400),
        ("rope_scaling", "linear"),
        ("rope_scaling", ["linear", 2.0]),
        ("rope_parameters", 4),
        ("layer_types", "full_attention"),
        ("layer_types", [1, 2]),
        ("layer_types", []),
        ("sliding_window", -4),
        ("sliding_window", 2**31),
        ("partial_rotary_factor", "half"),
        ("partial_rotary_factor", -0.5),
        ("partial_rotary_factor", 1.5),
    ],
)
def test_invalid_config_value_is_named(key, value):
    config = {**LLAMA, "model_type": "phi", key: value}
    if key == "sliding_window":
        config["model_type"] = "mistral"
    assert error_of(config).parameter == key


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ({"rope_type": "rope"}, "rope_type"),
        ({"rope_type": "ntk", "factor": 2.0}, "rope_type"),
        ({"rope_type": "ntk_alpha", "alpha": 2.0}, "rope_type"),
        ({"rope_type": ["yarn"]}, "rope_type"),
        ({"type": 3}, "type"),
        ({"type": "linear", "rope_type": "yarn", "factor": 2.0}, "type"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": "2"}, "factor"),
        ({"rope_type": "linear", "factor": None}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({"rope_type": "linear", "factor": 10**400}, "factor"),
        ({"rope_type": "linear", "factor": [2.0]}, "factor"),
        ({"rope_type": "yarn", "factor": 0.5}, "factor"),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": -1}, "beta_fast"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": "no"}, "truncate"),
        ({"rope_type": "yarn", "original_max_position_embeddings": 0}, None),
        ({"rope_type": "yarn", "original_max_position_embeddings": 1.5}, None),
        ({**LONG, "short_factor": [1.0] * 15}, "short_factor"),
        ({**LONG, "long_factor": 2.0}, "long_factor"),
        ({**LONG, "short_factor": [1.0] * 10_000}, "short_factor"),
        ({**LONG, "short_factor": [1.0] * 15 + [math.nan]}, "short_factor"),
        ({"llama_4_scaling_beta": math.inf}, "llama_4_scaling_beta"),
        ({**LONG, "long_factor": [0.0] * 16}, "long_factor"),
        ({**LONG, "long_factor": [10**400] * 16}, "long_factor"),
        ({**LONG, "long_factor": ["2"] * 16}, "long_factor"),
        ({**LONG, "factor": 0.5}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_type": "proportional", "partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": "x"}, "rope_theta"),
    ],
    ids=str,
)
def test_invalid_rope_parameter_is_named(block, key):
    error = error_of({**LLAMA, "rope_parameters": block})
    assert error.parameter == f"rope_parameters.{key or 'original_max_position_embeddings'}"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**LLAMA, "num_attention_heads": 5}, "head_dim"),
        ({**LLAMA, "head_dim": 33}, "head_dim"),
        ({**LLAMA, "head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}}, "head_dim"),
        ({"model_type": "qwen2_vl_text", "mrope_section": [1, 2]}, "rope_parameters.mrope_section"),
        (
            {"model_type": "qwen2_vl", "rope_scaling": {"type": "mrope", "mrope_section": "all"}},
            "rope_scaling.mrope_section",
        ),
        (
            LLAMA | {"model_type": "glm4v_moe_text", "partial_rotary_factor": 0.0},
            "partial_rotary_factor",
        ),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -1}, "attn_logit_softcapping"),
        ({"model_type": "ltx", "num_attention_heads": 10**6}, "head_dim"),
        ({"model_type": "cosmos", "rope_scale": "wide"}, "rope_scale"),
        ({"model_type": "flux", "axes_dims_rope": [16, None]}, "axes_dims_rope"),
        ({"model_type": "minimax_m2", "rotary_dim": "64"}, "rotary_dim"),
        ({"_class_name": {"a": 1}}, "_class_name"),
        ({"model_type": "phimoe", "rope_scaling": {"type": "yarn"}}, "rope_scaling.rope_type"),
        ({"model_type": "exaone4", "sliding_window_pattern": "LXG"}, "sliding_window_pattern"),
    ],
    ids=str,
)
def test_invalid_key_of_one_family_is_named(config, key):
    assert error_of(config).parameter == key


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"layer": -1}, "layer"),
        ({"layer": 2}, "layer"),
        ({"layer": True}, "layer"),
        ({"layer": "0"}, "layer"),
        ({"layer_type": 0}, "layer_type"),
        ({"layer": 0, "layer_type": "full_attention"}, "layer_type"),
        ({"compat": "5"}, "compat"),
        ({"part": "voice"}, "part"),
        ({"arithmetic": "float16"}, "arithmetic"),
        ({"head_dim": "64"}, "head_dim"),
        ({"model_type": b"llama"}, "model_type"),
    ],
    ids=str,
)
def test_invalid_argument_is_named(arguments, key):
    config = {**LLAMA, "layer_types": ["sliding_attention", "full_attention"]}
    assert error_of(config, **arguments).parameter == key


@pytest.mark.parametrize("config", [None, [], "llama", 7])
def test_config_must_be_an_object(config):
    assert error_of(config).parameter == "config"


def test_missing_layer_type_lists_the_choices():
    error = error_of({"model_type": "gemma3_text"})
    assert error.parameter == "layer_type"
    assert "'full_attention', 'sliding_attention'" in str(error)
    assert "layer" in error.expected


def test_errors_abbreviate_long_and_nested_values():
    deep = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, "x" * 10**6, [1] * 10**6, {"a" * 1000: deep}):
        error_of({**LLAMA, "rope_theta": value})
        error_of({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": value}})
        error_of({**LLAMA, "rope_scaling": {"rope_type": value}})


JUNK = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        64,
        4096,
        0.0,
        -0.5,
        0.5,
        1e-9,
        1e300,
        10**400,
        -(10**400),
    ),
    *(float("inf"), float("nan"), 2**31, 2**63, "", "x", "default", "yarn", "longrope", "llama3"),
    *("dynamic", "linear", "proportional", "su", "mrope", "xdrope", "LLLG", "full_attention"),
    *([], {}, [1], [0], ["a"], [None], [[1]], [10**400], [16, 24, 24], [1.0] * 32),
    *({"full_attention": None}, {"rope_type": "linear"}, ["full_attention", "sliding_attention"]),
]
IN_BLOCK = [
    *("rope_type", "type", "factor", "rope_theta", "partial_rotary_factor", "attention_factor"),
    *("low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "truncate"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "short_factor", "long_factor"),
    *("mrope_section", "alpha", "short_mscale", "long_mscale", "full_attention", "length"),
]


def mutate(config, rng):
    """Return a copy with one to three values replaced or added."""
    config = copy.deepcopy(config)
    keys = sorted({key for family in families().values() for key in family.defaults})
    keys += ["rope_scaling", "rope_parameters", "rope_theta", "layer_types", "no_rope_layers"]
    for _ in range(rng.randint(1, 3)):
        node = config
        while (inner := [v for v in node.values() if isinstance(v, dict)]) and rng.random() < 0.6:
            node = rng.choice(inner)
        fresh = rng.choice(keys if node is config else IN_BLOCK)
        key = rng.choice(list(node)) if node and rng.random() < 0.55 else fresh
        value = rng.choice(JUNK)
        if rng.random() < 0.2:
            value = {rng.choice(IN_BLOCK): rng.choice(JUNK) for _ in range(4)}
        node[key] = copy.deepcopy(value)
    return config


@pytest.mark.parametrize("seed", range(4))
def test_mutated_configs_raise_only_config_errors(seed):
    rng = random.Random(seed)
    seeds = [json.loads(json.dumps(dict(preset.config))) for preset in built_in().values()]
    seeds += [{"model_type": name} for name in families()]
    answers, errors = 0, []
    for _ in range(1500):
        config = mutate(rng.choice(seeds), rng)
        arguments = {
            "compat": rng.choice(["5.23", "4.57"]),
            "layer": rng.choice([None, None, None, 0, 1]),
            "layer_type": rng.choice([None, None, None, "full_attention"]),
        }
        try:
            resolved = resolve(config, **arguments)
        except ConfigError as error:
            errors.append(error)
        else:
            assert (resolved.rope is None) == (resolved.nope is not None), config
            answers += 1
    assert answers > 300
    assert all(error.parameter and len(str(error)) < 2000 for error in errors)


@pytest.mark.parametrize(
    ("model_type", "key", "layer_type"),
    [
        ("modernbert", "global_rope_theta", "full_attention"),
        ("gemma3_text", "rope_local_base_freq", "sliding_attention"),
    ],
)
@pytest.mark.parametrize("value", [math.inf, math.nan, "1e4"])
def test_a_base_of_a_layer_type_has_the_name_of_the_file(model_type, key, layer_type, value):
    config = LLAMA | {"model_type": model_type, key: value}
    with pytest.raises(ConfigError, match=f"^{key} must be a "):
        resolve(config, layer_type=layer_type)


def test_a_config_with_many_layer_types_has_a_short_error():
    config = LLAMA | {"rope_parameters": {f"type_{i}": {} for i in range(10_000)}}
    assert error_of(config).parameter == "layer_type"
    assert error_of(config, layer_type="other").parameter == "layer_type"
