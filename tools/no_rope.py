"""Write `rope_core/hf/no_rope.json` from the code of the installed transformers.

    python -m tools.no_rope          # write the table
    python -m tools.no_rope --check  # exit with 1 if the table is not what the code says

`model_types` has the model types whose code rotates nothing, and what tells their attention where a
token is. `composites` has the model types that consist of models of other types: for each part, the
key of its config, the model type that the class has by default, and the values of that default
config that are not those of its own class.
"""

import ast
import difflib
import json
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import CONFIG_MAPPING, PretrainedConfig

from rope_core.hf import families, find_family
from tools import model_code
from tools.model_code import Place
from tools.no_rope_overrides import LEFT_OUT, OVERRIDES
from tools.parity import classes

TABLE = Path(families.__file__).with_name("no_rope.json")

ROTARY = re.compile(
    r"apply_(rotary|rope)|rotary_(pos_)?emb|Rotary|RoPE|Rope[A-Z]|freqs_cis"
    r"|rotate_(half|pairwise|every_two|queries)"
)
"""Names in code that rotates."""

RELATIVE = re.compile(
    r"relative_(?!order)\w*(bias|embedding|table|k_proj|layer)|rel_(pos|attn|emb|logits)|emb_rel"
    r"|distance_embedding|[ur]_bias$|bias_[uv]$|pos_bias|position_bias|attention_biases|^rpb$"
)
"""Attributes that hold parameters of relative positions."""

RELATIVE_BIAS = re.compile(
    r"relative_(attention|position)_bias|attention_biases|continuous_position_bias|^rpb$"
    r"|rel_pos_(x_|y_)?bias"
)
"""Those of biases that depend on positions only, not on the contents of queries or keys."""

ABSOLUTE = re.compile(
    r"(?<!query_)pos(ition)?(s|al)?_?(emb|enc)|^embed_positions$|^wpe$|^(row|col|column)_embedder$"
)
"""Attributes that hold embeddings of absolute positions."""

RELATIVE_CLASS = re.compile(r"Rel(ative)?Pos")

FORMULA = re.compile(r"sinusoid|sine_?pos|sincos", re.IGNORECASE)
"""Classes and functions that compute positions from sines."""

STATE_SPACE = re.compile(r"mamba|(^|_)ssm(_|$)|rwkv|xlstm|mlstm", re.IGNORECASE)

SCALES = {
    "config.scale_attn_weights": "scale_attn_weights",
    "self.head_dim ** (-0.5) if config.scale_attn_weights else 1.0": "scale_attn_weights",
    "(self.head_dim / 2) ** (-0.5)": "half_head_dim",
    "1.0 / self.head_dim": "inverse_head_dim",
    "1.0": "unscaled",
}
"""Softmax scales other than head_dim ** -0.5, and the rules in `rope_core/hf/attention.py`."""

KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "sliding_window")
"""Keys whose names and defaults a row has."""

PART_KEYS = (*KEYS, "max_position_embeddings", "rope_parameters", "is_decoder")
"""Keys that a composite model's default config of a part may set."""

TEXT_KEYS = (
    *("text_config", "llm_config", "language_config", "thinker_config", "vlm_config"),
    *("decoder_config", "decoder", "generator", "semantic_config", "model_config"),
)
OTHER_KEYS = {
    "vision": ("vision_config", "backbone_config", "image_model_config", "detector_config"),
    "audio": ("audio_config", "speech_config", "encoder_config", "dit_config", "asr_config"),
}
"""Keys of the configs of parts, the ones to prefer first."""


def config_classes() -> dict[str, type[PretrainedConfig]]:
    """Return the configuration class of each model type, also of those of parts."""
    found = {value.model_type: value for value in classes.config_classes()}
    found |= {name: CONFIG_MAPPING[name] for name in CONFIG_MAPPING}
    return {name: found[name] for name in sorted(found) if name}


def code_of(config_class: type[PretrainedConfig]) -> set[Place]:
    """Return the code of the models of a class, or else of the class that it is derived from."""
    bases = [base for base in config_class.__mro__ if ".models." in base.__module__]
    names = frozenset(base.__name__ for base in bases)
    for base in bases:
        files = model_code.modeling_files(base.__module__.split(".")[-2])
        if places := model_code.code_of_config(names, files):
            return places
    return set()


def default_config(config_class: type[PretrainedConfig]) -> PretrainedConfig | None:
    """Return the config that a class makes without arguments, None if it needs some."""
    try:
        return config_class()
    except (ValueError, StrictDataclassClassValidationError):
        return None


def used_names(places: set[Place]) -> set[str]:
    """Return all names in some code."""
    return {name for place in places for name in model_code.names(place)}


def rotates(places: set[Place]) -> bool:
    """Return whether the code has a name that only rotary code has."""
    return any(ROTARY.search(name) for name in used_names(places))


def kind(places: set[Place]) -> str:
    """Return what tells the attention of some code where a token is."""
    names = used_names(places)
    if any("alibi" in name for name in names):
        return "ALiBi"
    found = {_kind_of(attribute, value, places) for attribute, value in _modules(places)}
    for position in ("relative", "learned absolute", "sinusoidal", "convolutional"):
        if position in found:
            return position
    if any(FORMULA.search(name) for _, name in places):
        return "sinusoidal"
    is_recurrent = any(STATE_SPACE.search(name) for name in names)
    return "state space" if is_recurrent and not attends(places) else "none"


def relative_bias(places: set[Place]) -> bool:
    """Return whether some code with relative positions has biases of positions only."""
    return any(RELATIVE_BIAS.search(attribute) for attribute, _ in _modules(places))


def attends(places: set[Place]) -> bool:
    """Return whether some code has a class for attention."""
    return any("Attention" in name for _, name in places)


def _modules(places: set[Place]) -> list[tuple[str, ast.expr]]:
    """Return the attributes that hold modules, parameters or buffers."""
    return [
        (attribute, value)
        for place in places
        for attribute, value in model_code.assignments(place)
        if any(name[:1].isupper() or "sinusoid" in name for name in model_code.calls(value))
        and not attribute.endswith("_head")
    ]


def _kind_of(attribute: str, value: ast.expr, places: set[Place]) -> str | None:
    if RELATIVE.search(attribute):
        return "relative"
    if attribute.startswith("pos_conv"):
        return "convolutional"
    if not ABSOLUTE.search(attribute):
        return None
    for called in model_code.calls(value):
        names = used_names({place for place in places if place[1] == called})
        is_formula = FORMULA.search(called) or names >= {"sin", "cos"}
        if RELATIVE_CLASS.search(called):
            return "relative"
        if is_formula or called == "Buffer":  # a buffer is not trained
            return "sinusoidal"
    return "learned absolute"


def causal(places: set[Place]) -> dict[str, Any]:
    """Return whether a query of the text part sees no later keys, or the key that decides."""
    names = used_names(places)
    if "create_causal_mask" not in names:
        attributes = [pair for place in places for pair in model_code.assignments(place)]
        is_causal = any(
            name == "is_causal" and ast.unparse(value) == "True" for name, value in attributes
        )
        return {"causal": is_causal and "create_bidirectional_mask" not in names}
    for place in places:
        for node in ast.walk(model_code.code(place)):
            if isinstance(node, ast.If | ast.IfExp) and "is_decoder" in ast.unparse(node.test):
                body = node.body if isinstance(node.body, list) else [node.body]
                if any("create_causal_mask" in ast.unparse(part) for part in body):
                    return {"causal": False, "causal_key": "is_decoder"}
    return {"causal": True}


def softmax_scale(places: set[Place]) -> str | None:
    """Return the rule of the softmax scale, None for head_dim ** -0.5."""
    found = {
        SCALES.get(ast.unparse(value))
        for place in places
        if "Attention" in place[1]
        for attribute, value in model_code.assignments(place)
        if attribute.startswith(("scal", "softmax_scale"))
    }
    return next((rule for rule in SCALES.values() if rule in found - {None}), None)


def model_row(
    name: str, config_class: type[PretrainedConfig], places: set[Place]
) -> dict[str, Any] | None:
    """Return the row of a model type, None if its code rotates."""
    override = OVERRIDES.get(name, {})
    if rotates(places) and "no_rope" not in override:
        return None
    config = default_config(config_class)
    values = vars(config) if config else {}
    row = {"no_rope": kind(places), **causal(places), "softmax_scale": softmax_scale(places)}
    if row["no_rope"] == "relative" and relative_bias(places):
        row["relative_bias"] = True
    row |= override
    row["causal"] = row["causal"] or row["no_rope"] == "state space"
    if override.get("causal"):
        row.pop("causal_key", None)
    keys = {**config_class.attribute_map, **override.get("key_names", {})}
    if values.get("is_encoder_decoder") and "causal_key" in row:
        row["causal"] = True  # the decoder is the text part
        del row["causal_key"]
    if values.get("is_encoder_decoder") and row["causal"]:
        row["encoder_decoder"] = True
        for decoder_key in ("decoder_layers", "num_decoder_layers"):
            if decoder_key in values:
                keys["num_hidden_layers"] = decoder_key
    row["key_names"] = {key: keys[key] for key in (*KEYS, "layer_types") if key in keys}
    defaults = {key: getattr(config_class, keys.get(key, key), None) for key in KEYS}
    row["defaults"] = {
        key: value for key, value in defaults.items() if type(value) is int and value
    } | override.get("defaults", {})
    if (causal_key := row.get("causal_key")) and values.get(causal_key):
        row["defaults"][causal_key] = True
    return {key: value for key, value in row.items() if value not in ({}, None)}


def composite_row(
    config_class: type[PretrainedConfig], *, is_wrapper: bool, has_family: bool
) -> dict[str, list[Any]]:
    """Return the key, the default model type and the default values of a composite model's parts.

    Args:
        config_class: the class of the composite.
        is_wrapper: whether a model without a text part is no more than its backbone, which then
            has the place of the text part.
        has_family: whether the class itself describes a model that rotates.
    """
    config = default_config(config_class)
    parts = dict(config_class.sub_configs) | (vars(config) if config else {})
    types = {
        key: getattr(value, "model_type", "")
        for key, value in parts.items()
        if key in config_class.sub_configs or isinstance(value, PretrainedConfig)
    }
    keys: dict[str, str | None] = {"text": next((key for key in TEXT_KEYS if key in types), None)}
    for part, part_keys in OTHER_KEYS.items():
        keys[part] = next((key for key in part_keys if key in types), None)
    if keys["text"] is None and is_wrapper:
        keys["text"] = keys["vision"] or keys["audio"]
    if keys["text"] is None and not has_family:
        return {}
    return {
        part: [key, types[key], *default_values(parts[key])] for part, key in keys.items() if key
    }


def default_values(config: Any) -> list[dict[str, Any]]:
    """Return the values of a default config that its own class does not have, [] without any."""
    own = default_config(type(config)) if isinstance(config, PretrainedConfig) else None
    if own is None:
        return []
    names = {key: config.attribute_map.get(key, key) for key in PART_KEYS}
    given = {key: vars(config).get(name) for key, name in names.items()}
    values = {
        key: value
        for key, value in given.items()
        if value != vars(own).get(names[key]) and not isinstance(value, list)
    }
    if values and given["head_dim"]:  # the own class may derive its width, from other values
        values["head_dim"] = given["head_dim"]
    return [values] if values else []


def make_table(date: str) -> dict[str, Any]:
    """Return the table, as of a date."""
    models, composites = {}, {}
    for name, config_class in config_classes().items():
        if name in LEFT_OUT:
            continue
        places = code_of(config_class)
        row = model_row(name, config_class, places)
        has_family = name in families.families()
        is_wrapper = not has_family and (row is None or not attends(places))
        if parts := composite_row(config_class, is_wrapper=is_wrapper, has_family=has_family):
            composites[name] = parts
        elif row is not None and find_family.module_with_rope(name) is None:
            models[name] = row
    return {
        "made_by": "tools/no_rope.py",
        "transformers": version("transformers"),
        "date": date,
        "model_types": models,
        "composites": composites,
    }


def render(table: dict[str, Any]) -> str:
    """Return the table as JSON with a row per line."""
    lines = []
    for key, value in table.items():
        if isinstance(value, str):
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
            continue
        rows = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in value.items()]
        lines.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n  }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: list[str]) -> int:
    """Write the table, or check it."""
    if arguments == ["--check"]:
        committed = TABLE.read_text()
        made = render(make_table(json.loads(committed)["date"]))
        if made == committed:
            print(f"{TABLE.name} is what the code of transformers {version('transformers')} says")
            return 0
        changes = difflib.unified_diff(committed.splitlines(), made.splitlines(), lineterm="")
        print(*changes, sep="\n")
        return 1
    TABLE.write_text(render(make_table(datetime.now(UTC).date().isoformat())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
