"""Keys that bear on positions are applied, listed with a warning, or refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import ConfigError, hf, resolve
from rope_core.hf.position_key_names import bears_on_positions
from rope_core.presets import built_in
from tests.core.position_key_cases import BESIDE, KEYS, LLAMA, PATHS, PLAIN, UNKNOWN, YARN

cases = pytest.mark.parametrize(("key", "value"), KEYS.items(), ids=KEYS)


def without(config, key):
    if key != "rope_scaling":
        return {name: value for name, value in config.items() if name != key}
    return {**config, key: {name: v for name, v in config[key].items() if name != "alpha"}}


def check_equal_rope(left, right):
    assert left.rope == right.rope
    assert torch.equal(left.inv_freq, right.inv_freq)
    assert left.attention == right.attention
    assert dict(left.parameters) == dict(right.parameters)


@cases
def test_a_known_family_lists_it_and_warns(key, value):
    path, config = PATHS.get(key, key), {**LLAMA, **BESIDE.get(key, {}), key: value}
    resolved = resolve(config)
    assert resolved.position_keys_not_applied == (path,)
    (warning,) = resolved.warnings
    assert warning == f"keys that bear on positions are not applied: {path}"
    check_equal_rope(resolved, resolve(without(config, key)))


@cases
@pytest.mark.parametrize("model_type", ["unheard_of", None])
def test_an_unknown_family_refuses_it(key, value, model_type):
    config = {**PLAIN, key: value} | ({"model_type": model_type} if model_type else {})
    path = PATHS.get(key, key)
    with pytest.raises(ConfigError) as refusal:
        resolve(config)
    assert refusal.value.parameter == path
    assert '"assume": "llama"' in str(refusal.value)
    named = "unknown model_type 'unheard_of'" if model_type else "without a model_type"
    assert named in str(refusal.value)

    assumed = resolve(config, assume="llama")
    assert assumed.position_keys_not_applied == (path,)
    assert f"keys that bear on positions are not applied: {path}" in assumed.warnings
    check_equal_rope(assumed, resolve(without(config, key)))
    assert resolve({"config": config, "assume": "llama"}).warnings == assumed.warnings


ODD = [{"a": {"b": 1}}, [{}], [[1]], [None], float("nan"), float("inf"), -1, 0, 2**70, "x", ()]


@cases
def test_values_of_odd_types_are_listed_or_refused(key, value):
    for odd in ODD:
        for plain in (LLAMA, UNKNOWN):
            try:
                resolved = resolve({**plain, key: odd}, assume="llama")
            except ConfigError:
                continue
            assert all(path.startswith(key) for path in resolved.position_keys_not_applied)


def test_an_unknown_family_is_refused_before_other_keys_are_missing():
    with pytest.raises(ConfigError, match=r"^rotary_dim must be absent"):
        resolve({"model_type": "unheard_of", "rotary_dim": 64})


def test_a_refusal_and_a_warning_name_all_keys():
    keys = {"alibi": True, "rotary_dim": 32, "use_logn_attn": True}
    with pytest.raises(ConfigError, match=r"^alibi .*as do rotary_dim, use_logn_attn.*got True$"):
        resolve({**UNKNOWN, **keys})
    (warning,) = resolve({**LLAMA, **keys}).warnings
    assert warning.endswith("not applied: alibi, rotary_dim, use_logn_attn")


def test_many_and_long_names_are_cut():
    many = {f"rotary_{i}": i for i in range(2, 3000)} | {"rope_" + "x" * 10_000: 2}
    resolved = resolve({**LLAMA, **many})
    assert len(resolved.position_keys_not_applied) == len(many)
    assert max(map(len, resolved.warnings)) < 2000
    with pytest.raises(ConfigError) as refusal:
        resolve({**UNKNOWN, **many})
    assert len(str(refusal.value)) < 2000


def test_a_warning_is_one_line_of_limited_length_whatever_the_keys_are():
    inner = {"rope_type": "linear", "factor": 2.0, "beta\n": 1}
    config = {**LLAMA, "rope_\r\nalpha": 2.0, "layer_types": ["one\ntwo", "x" * 10_000] * 2}
    config["rope_parameters"] = dict.fromkeys(config["layer_types"], inner)
    for layer in (0, 1):
        warnings = resolve(config, layer=layer).warnings
        assert len(warnings) > 1
        assert all(text.isprintable() and len(text) <= 2048 for text in warnings)
    assert "rope_??alpha" in " ".join(warnings)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"model": {"rotary_dim": 16}}, "model.rotary_dim"),
        ({"language_model": {"rope_theta": 5e5}}, "language_model.rope_theta"),
        ({"a": {"b": {"alibi": True}}}, "a.b.alibi"),
        ({"layers": [{}, {"rope": False}]}, "layers.1.rope"),
        ({"block_configs": [{"attention": {"rope_theta": 1}}]}, "block_configs.0.attention"),
        ({"relative_attention_num_buckets": 32}, "relative_attention_num_buckets"),
        ({"max_relative_positions": 32}, "max_relative_positions"),
    ],
)
def test_an_unknown_family_is_looked_into(keys, path):
    with pytest.raises(ConfigError) as refusal:
        resolve({**UNKNOWN, **keys})
    assert refusal.value.parameter.startswith(path)
    assert resolve({**LLAMA, **keys}).position_keys_not_applied == ()


def test_a_deep_config_is_looked_into_to_a_limit():
    deep = {"alibi": True}
    for _ in range(500):
        deep = {"a": deep}
    assert resolve({**UNKNOWN, "a": deep}).position_keys_not_applied == ()


WORDS = st.sampled_from(
    ["rope", "rotary", "alibi", "ntk", "yarn", "nope", "theta", "logn", "xpos", "mrope", "qk_rope"]
)
REST = st.text(st.sampled_from("abcdefgh_"), max_size=8).map(lambda text: f"z_{text}_z")
NAMES = st.builds("{}_{}_{}".format, REST, WORDS, REST)
VALUES = st.one_of(
    st.integers(2, 999), st.floats(1.5, 9.5), st.just(True), st.lists(st.integers(2, 9), min_size=1)
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
def test_any_key_with_such_a_word(keys):
    assert all(map(bears_on_positions, keys))
    plain, expected = resolve(UNKNOWN), tuple(sorted(keys))
    with pytest.raises(ConfigError) as refusal:
        resolve({**UNKNOWN, **keys})
    assert refusal.value.parameter == expected[0]
    assumed = resolve({**UNKNOWN, **keys}, assume="llama")
    assert assumed.position_keys_not_applied == expected
    check_equal_rope(assumed, plain)
    known = resolve({**LLAMA, **keys})
    assert known.position_keys_not_applied == expected
    check_equal_rope(known, resolve(LLAMA))


def test_keys_that_a_family_applies_have_a_source():
    neox = {**PLAIN, "model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 1000}
    resolved = resolve(neox)
    assert (resolved.rope.rotary_dim, resolved.rope.theta) == (32, 1000.0)
    assert resolved.position_keys_not_applied == ()
    assert resolved.provenance["partial_rotary_factor"] == "given"
    assert resolved.provenance["rope_theta"] == "given"
    smollm = {**PLAIN, "model_type": "smollm3", "no_rope_layers": [1, 0, 1, 0]}
    for layer in range(4):
        resolved = resolve(smollm, layer=layer)
        assert resolved.position_keys_not_applied == ()
        assert resolved.provenance["no_rope_layers"] == "given"
        assert (resolved.rope is None) == bool(layer % 2)


def test_a_key_that_other_layers_apply_is_not_listed():
    gemma = {**PLAIN, "model_type": "gemma3_text", "rope_local_base_freq": 5000.0, "head_dim": 64}
    gemma |= {"rope_theta": 2e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    gemma["layer_types"] = ["sliding_attention", "full_attention"] * 2
    cohere = {**PLAIN, "model_type": "cohere2", "rope_theta": 4e6}
    for config in (gemma, cohere):
        for layer in range(4):
            assert resolve(config, layer=layer).position_keys_not_applied == ()
    of_one_type = {**gemma, "layer_types": ["full_attention"] * 4}
    assert resolve(of_one_type, layer=0).position_keys_not_applied == ()


def test_keys_of_the_dictionary_of_rope_parameters():
    for extra, listed in (
        ({"mscale": 0.707}, ["mscale"]),
        ({"mscale": 1.0}, []),
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, []),
        ({"mscale": 0.7, "mscale_all_dim": 0.7, "attention_factor": 1.2}, ["mscale"] * 2),
        ({"low_freq_factor": 1.5}, ["low_freq_factor"]),
        ({"alpha": 1000}, ["alpha"]),
        ({"attention_factor": None, "finetuned": True}, []),
    ):
        resolved = resolve({**LLAMA, "rope_scaling": {**YARN, **extra}})
        found = [path.removesuffix("_all_dim") for path in resolved.position_keys_not_applied]
        assert found == [f"rope_scaling.{key}" for key in listed], extra
        told = [text for text in resolved.warnings if "low_freq_factor" in text]
        assert len(told) == ("low_freq_factor" in extra), "one warning for one key"


def test_a_dictionary_that_another_replaces():
    linear = {"rope_type": "linear", "factor": 2.0}
    both = {**LLAMA, "rope_scaling": linear, "rope_parameters": {"rope_type": "yarn", "factor": 4}}
    resolved = resolve(both)
    assert resolved.rope.rope_type == "linear"
    assert resolved.position_keys_not_applied == ("rope_parameters",)
    same = {**LLAMA, "rope_scaling": linear, "rope_parameters": {**linear, "rope_theta": 10000}}
    assert resolve(same).position_keys_not_applied == ()


def test_a_key_outside_that_one_inside_replaces():
    inside = {**LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}
    resolved = resolve(inside)
    assert (resolved.rope.theta, resolved.position_keys_not_applied) == (1e6, ("rope_theta",))
    assert resolve({**inside, "rope_theta": 1e6}).position_keys_not_applied == ()


def test_keys_around_the_config_of_a_part():
    text = {**PLAIN, "model_type": "qwen2"}
    around = {"model_type": "some_vl", "rope_theta": 5e5, "rotary_dim": 8, "text_config": text}
    resolved = resolve(around)
    assert resolved.position_keys_not_applied == ("rope_theta", "rotary_dim")
    inner = {**around, "text_config": {**text, "rope_theta": 1e6, "alibi": True}}
    resolved = resolve(inner)
    assert resolved.rope.theta == 1e6
    assert resolved.position_keys_not_applied == ("rotary_dim", "text_config.alibi")
    unknown = {**text, "model_type": "unheard_of"}
    with pytest.raises(ConfigError, match=r"^rope_theta must be absent"):
        resolve({"rope_theta": 5e5, "text_config": unknown})


def test_a_key_that_a_class_does_not_read():
    resolved = resolve({**PLAIN, "model_type": "gpt_neox", "rope_theta": 5e5})
    assert resolved.position_keys_not_applied == ("rope_theta",)
    assert [text for text in resolved.warnings if "rope_theta" in text] == [
        "rope_theta is ignored: the class of gpt_neox does not read it"
    ]


def test_a_model_that_does_not_rotate():
    """Its reason says what it has instead; keys of a rotation are listed."""
    plain = {**PLAIN, "model_type": "zamba2"}
    for inert in (
        {"use_absolute_position_embeddings": True},
        {"position_embedding_type": "absolute"},
        {"kv_channels": 99, "qk_rope_head_dim": 0},
        {"use_nope": True},
    ):
        assert resolve({**plain, **inert}).position_keys_not_applied == (), inert
    for listed in (
        {"rope_theta": 10_000},
        {"position_embedding_type": "rope"},
        {"position_embedding_type": "relative_key"},
        {"use_relative_position_bias": True},
        {"rotary_dim": 8},
        {"use_rope": True},
    ):
        assert resolve({**plain, **listed}).position_keys_not_applied == (*listed,)
    rotates = {**plain, "use_mem_rope": True, "rope_theta": 5000}
    resolved = resolve(rotates)
    assert (resolved.rope.theta, resolved.position_keys_not_applied) == (5000.0, ())


def test_assume():
    assert resolve(UNKNOWN, assume="llama").warnings == resolve(UNKNOWN).warnings
    (warning,) = resolve(LLAMA, assume="llama").warnings
    assert warning == "assume is ignored: the model_type llama is known"
    for wrong in ("mistral", "", 1):
        with pytest.raises(ConfigError, match="assume"):
            hf.resolve(UNKNOWN, assume=wrong)
    with pytest.raises(ConfigError, match=r"assume.* the rope is not a model's config"):
        resolve({"theta": 1e4, "head_dim": 64}, assume="llama")


def test_presets_apply_all_keys_or_list_them():
    listed = {}
    for name in built_in():
        try:
            resolved = resolve(name)
        except ConfigError:  # layers differ
            resolved = resolve(name, layer=0)
        if resolved.position_keys_not_applied:
            listed[name] = resolved.position_keys_not_applied
    assert not listed
