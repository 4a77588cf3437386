"""Write `rope_core/hf/no_rope.json` from the code of the installed transformers.

    python -m tools.no_rope          # write the table
    python -m tools.no_rope --check  # exit with 1 if the table is not what the code says

`model_types` has the model types whose code rotates nothing, and what tells their attention where a
token is. `composites` has the model types that consist of models of other types: for each part, the
key of its config and the model type that the class has by default.
"""

import ast
import difflib
import json
import re
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import CONFIG_MAPPING, PretrainedConfig

from rope_core.hf import families
from tools import model_code
from tools.model_code import Place

TABLE = Path(families.__file__).with_name("no_rope.json")

ROTARY = re.compile(
    r"apply_(rotary|rope)|rotary_(pos_)?emb|Rotary|RoPE|Rope[A-Z]|freqs_cis"
    r"|rotate_(half|pairwise|every_two|queries)"
)
"""Names in code that rotates."""

RELATIVE = re.compile(
    r"relative_(?!order)\w*(bias|embedding|table|k_proj|layer)|rel_(pos|attn|emb|logits)|emb_rel"
    r"|distance_embedding|[ur]_bias$|bias_[uv]$|pos_bias|position_bias|attention_biases"
)
"""Attributes that hold parameters of relative positions."""

ABSOLUTE = re.compile(r"(?<!query_)pos(ition)?(s|al)?_?(emb|enc)|^embed_positions$|^wpe$")
"""Attributes that hold embeddings of absolute positions."""

STATE_SPACE = re.compile(r"mamba|ssm|rwkv|xlstm|mlstm", re.IGNORECASE)

SCALES = {
    "1.0": "unscaled",
    "1.0 / self.head_dim": "inverse_head_dim",
    "(self.head_dim / 2) ** (-0.5)": "half_head_dim",
    "config.scale_attn_weights": "scale_attn_weights",
    "self.head_dim ** (-0.5) if config.scale_attn_weights else 1.0": "scale_attn_weights",
    "config.attn_config.softmax_scale": "attn_config",
}
"""Softmax scales other than head_dim ** -0.5, and the rules in `rope_core/hf/attention.py`."""

KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim")
"""Keys whose names and defaults a row has."""

PARTS = {
    "text": (
        *("text_config", "llm_config", "language_config", "thinker_config", "vlm_config"),
        *("decoder_config", "decoder", "generator", "semantic_config", "model_config"),
    ),
    "vision": ("vision_config", "backbone_config", "image_model_config", "detector_config"),
    "audio": ("audio_config", "speech_config", "encoder_config", "dit_config"),
}
"""Keys of the configs of parts, the ones to prefer first."""

OVERRIDES: dict[str, dict[str, Any]] = {
    # position_embeddings are learned, rotary_pos_emb of the shared attention is never given
    "clvp_decoder": {"kind": "learned absolute"},
    # learned embeddings in the first layer alone if the switch is off: transformers' code of the
    # three reads relative_attention before it adds any bias
    "deberta": {"kind": "relative", "nope": "relative_attention"},
    "deberta-v2": {"kind": "relative", "nope": "relative_attention"},
    "sew-d": {"kind": "relative", "nope": "relative_attention"},
    # scores are products of queries and keys without a factor, the mask is a buffer of the class
    "gpt_neo": {"softmax_scale": "unscaled", "causal": True},
    # positions are classes in closures of the config, which syntax trees do not show
    "perceiver": {"kind": "learned absolute"},
    # a linear recurrence that the code calls attention
    "rwkv": {"kind": "state space", "causal": True},
}
"""What the code does and no rule above finds, with the reason."""


def config_classes() -> dict[str, type[PretrainedConfig]]:
    """Return the configuration class of each model type, also of those of parts."""
    found = {}
    for path in sorted(model_code.MODELS.glob("*/configuration_*.py")):
        module = import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, PretrainedConfig):
                found[value.model_type] = value
    found |= {name: CONFIG_MAPPING[name] for name in CONFIG_MAPPING}
    return {name: found[name] for name in sorted(found) if name}


def code_of(config_class: type[PretrainedConfig]) -> set[Place]:
    """Return the code of the models of a class, or else of the class that it is derived from."""
    bases = (base for base in config_class.__mro__ if ".models." in base.__module__)
    for base in bases:
        folder = base.__module__.split(".")[-2]
        if places := model_code.code_of_config(base.__name__, model_code.modeling_files(folder)):
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
    is_recurrent = any(STATE_SPACE.search(name) for name in names)
    return "state space" if is_recurrent and not attends(places) else "none"


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
        is_formula = "sinusoid" in called.lower() or names >= {"sin", "cos"}
        if is_formula or called == "Buffer":  # a buffer is not trained
            return "sinusoidal"
    return "learned absolute"


def is_causal(places: set[Place], names: set[str]) -> bool:
    """Return whether the decoder of some code, or all of it, hides later keys from a query."""
    return "create_causal_mask" in names or any(
        attribute == "is_causal" and ast.unparse(value) == "True"
        for place in places
        for attribute, value in model_code.assignments(place)
    )


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


def model_row(name: str, config_class: type[PretrainedConfig]) -> dict[str, Any] | None:
    """Return the row of a model type, None if its code rotates."""
    places, override = code_of(config_class), OVERRIDES.get(name, {})
    if rotates(places) and "kind" not in override:
        return None
    config, names = default_config(config_class), used_names(places)
    values = vars(config) if config else {}
    row: dict[str, Any] = {"kind": kind(places), "causal": is_causal(places, names)}
    if "is_decoder" in values and {"create_bidirectional_mask", "is_decoder"} <= names:
        row |= {"causal": False, "is_decoder": values["is_decoder"]}
    keys = dict(config_class.attribute_map)
    if values.get("is_encoder_decoder"):
        row |= {"causal": True, "encoder_decoder": True}
        row.pop("is_decoder", None)
        layers = [key for key in ("decoder_layers", "num_decoder_layers") if key in values]
        keys |= {"num_hidden_layers": key for key in layers}
    row["softmax_scale"] = softmax_scale(places)
    row["key_names"] = {key: keys[key] for key in (*KEYS, "layer_types") if key in keys}
    defaults = {key: values.get(keys.get(key, key)) for key in KEYS}
    row["defaults"] = {key: value for key, value in defaults.items() if type(value) is int}
    return {key: value for key, value in (row | override).items() if value not in ({}, None)}


def composite_row(config_class: type[PretrainedConfig]) -> dict[str, list[str]]:
    """Return the key and the default model type of the parts of a composite model."""
    config = default_config(config_class)
    parts = dict(config_class.sub_configs) | (vars(config) if config else {})
    types = {key: getattr(value, "model_type", "") for key, value in parts.items()}
    return {
        part: next([key, types[key]] for key in keys if types.get(key))
        for part, keys in PARTS.items()
        if any(map(types.get, keys))
    }


def make_table(date: str) -> dict[str, Any]:
    """Return the table, as of a date."""
    models, composites = {}, {}
    for name, config_class in config_classes().items():
        parts = composite_row(config_class)
        row = model_row(name, config_class)
        wraps = row is not None and row["kind"] == "none" and not attends(code_of(config_class))
        if parts and not ("text" in parts or wraps):
            parts = {}  # a backbone below a model with attention of its own
        if parts:
            composites[name] = parts
        elif row is not None and families.known(name) is None:
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
