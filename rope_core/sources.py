"""The rope of a model or of parameters, in each form that users have."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from rope_core import hf
from rope_core.axes import SCHEMES
from rope_core.config import Arithmetic, AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.frequencies import VARIANTS
from rope_core.hf import LayerKind, Resolved, other_files
from rope_core.hf.config_forms import find_form
from rope_core.hf.lengths import lengths_of_rope
from rope_core.own_frequencies import listed_rotary_dim
from rope_core.presets import built_in, lookup, read_config


class HuggingFaceConfig(Protocol):
    """A config object of transformers or diffusers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of config.json."""


RopeSource = RopeConfig | Resolved | Mapping[str, Any] | str | os.PathLike[str] | HuggingFaceConfig
"""What `resolve`, `rotate` and `attend` take as a rope."""

FORMS = (
    "a RopeConfig, the result of resolve, the name of a preset, a dict, the path of a config.json"
    " or a config of transformers"
)

CONFIG_KEYS = frozenset(
    ("model_type", "_class_name", "architectures", "hidden_size", "num_attention_heads")
) | {"rope_scaling", "rope_parameters", "text_config", "vision_config"}
"""Keys of a config.json: a dict that has one of them does not have parameters of `RopeConfig`."""

OBJECT_FORMS = ("config", "preset")
"""Keys of a dict that has a rope in another form, and options."""

OPTIONS = {
    **dict.fromkeys(("model_type", "part", "layer_type", "compat", "arithmetic", "assume"), str),
    "layer": int,
}
"""Other keys of such a dict, arguments of `resolve`, and the types of their values."""

PARAMETERS = frozenset(
    name
    for name, field in RopeConfig.__dataclass_fields__.items()
    if field.compare and name not in ("parameters", "axes_parameters")
).union(*(entry.parameters for entry in (*VARIANTS.values(), *SCHEMES.values())))
"""Names that a dict of parameters may have."""

MAX_LAYERS_READ = 512
"""Most layers that are resolved one by one to find those that rotate alike."""

SPELLINGS = {
    "rope_theta": "theta",
    "base": "theta",
    "type": "rope_type",
    "dim": "rotary_dim",
    **dict.fromkeys(("rope_freqs", "rope_factors", "factors"), "freq_factors"),
    **dict.fromkeys(("gain", "attention_scaling"), "attention_factor"),
}
"""Names that other libraries have for parameters."""


def resolve(
    config: RopeSource,
    *,
    model_type: str | None = None,
    part: str | None = None,
    layer: int | None = None,
    layer_type: str | None = None,
    compat: str = "5.23",
    arithmetic: Arithmetic = "hf",
    head_dim: int | None = None,
    num_axes: int | None = None,
    assume: str | None = None,
) -> Resolved:
    """Return the rotation and the attention of a layer of a model.

    Args:
        config: a preset's name or id on Hugging Face (`"meta-llama/Llama-3.1-8B"`, no download);
            the contents of a config.json, or its path, or the folder with it; a config object of
            transformers or diffusers; `{"preset": name}` or `{"config": contents}`, with options
            such as `layer`, as requests of the service have them; a dict of parameters
            (`{"theta": 5e5}`, `{"inv_freq": tensor}`), with the names of `RopeConfig` and those of
            the variant; a `RopeConfig`, or a `Resolved`, which are returned as they are.
        model_type: the family, instead of the config's.
        part: "text", "vision" or "audio" of a composite model, or "indexer", which chooses keys
            in sparse attention (DeepSeek-V3.2); text by default.
        layer: index of the layer, if layers differ.
        layer_type: its type, such as "sliding_attention".
        compat: the version of transformers to follow, "5.23" or "4.57".
        arithmetic: "hf", transformers' own operations, or "float64", the exact ones. Of models;
            a dict of parameters has its own, "float64" by default.
        head_dim: width of the heads to rotate, in elements; None for that of the config.
        num_axes: number of coordinates in a position, which distinguishes text and vision.
        assume: "llama", to read a config of an unknown model_type as a Llama's although it has
            keys that bear on positions and that Llama's rules do not apply.

    Raises:
        ConfigError: no preset has the name, the file is no config, or a key is missing, unknown or
            contradicts another; the error names the key.

    Source: transformers 5.23 and 4.57, `modeling_rope_utils.py` and each model's code.
    """
    of_model: dict[str, Any] = {
        "model_type": model_type,
        "part": part,
        "layer": layer,
        "layer_type": layer_type,
        "compat": compat,
        "arithmetic": arithmetic,
        "num_axes": num_axes,
        "assume": assume,
    }
    form = next(
        (name for name in OBJECT_FORMS if isinstance(config, Mapping) and name in config), ""
    )
    if isinstance(config, Mapping) and form:
        options = {**config}
        source = options.pop(form)
        if unknown := sorted(options.keys() - OPTIONS.keys(), key=str):
            raise ConfigError(f"rope[{brief(unknown[0])}]", f"one of {sorted(OPTIONS)}", "another")
        for name, kind in OPTIONS.items():
            if type(options.get(name)) not in (kind, type(None)):
                raise ConfigError(f"rope[{name!r}]", f"of type {kind.__name__}", options[name])
        return resolve(source, head_dim=head_dim, **{**of_model, **options})
    if isinstance(config, str) and _is_preset(config):
        return _resolve_preset(config, head_dim=head_dim, **of_model)
    if isinstance(config, str | os.PathLike):
        config = _config_at(config)
    elif not isinstance(config, type) and callable(to_dict := getattr(config, "to_dict", None)):
        config = to_dict()
    if isinstance(config, Mapping) and (model_type is not None or is_of_model(config)):
        return hf.resolve(config, head_dim=head_dim, **of_model)
    for name in ("model_type", "part", "layer", "layer_type", "assume"):
        if of_model[name] is not None:
            raise ConfigError(
                name, "None, because the rope is not a model's config", of_model[name]
            )
    if isinstance(config, Resolved):
        return config
    if isinstance(config, Mapping):
        return without_model(_from_parameters(config, head_dim))
    if isinstance(config, RopeConfig):
        return without_model(config)
    raise ConfigError("rope", FORMS, type(config).__name__)


def is_of_model(rope: Mapping[str, Any]) -> bool:
    """Return whether `rope` has the contents of a config.json or params.json, not parameters."""
    return not CONFIG_KEYS.isdisjoint(rope) or find_form(rope, None) is not None


def _is_preset(source: object) -> bool:
    return isinstance(source, str) and lookup.find(source, built_in()) is not None


@lru_cache(maxsize=64, typed=True)
def _resolve_preset(name: str, **options: Any) -> Resolved:
    preset = lookup.find(name, built_in())
    assert preset is not None, "the caller has found it"
    return hf.resolve(preset.config, **options)


def file_title(path: Path) -> str:
    """Return a short name of a file: that of its folder, if the file has the usual name."""
    generic = path.name in ("config.json", "params.json")
    return (generic and path.absolute().parent.name) or path.name.removesuffix(".json")


def _config_at(source: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the contents of a config.json, given its path or that of its folder."""
    path = Path(source)
    try:
        if source and path.is_dir():  # an empty text is no name of the working directory
            path /= "config.json"
        if path.is_file() or isinstance(source, os.PathLike) or path.suffix == ".json":
            return read_config(path, str(path))
    except (OSError, ValueError):  # a name that no file can have
        pass
    near = lookup.nearest(str(source), built_in())
    hint = "" if near is None else f" (the nearest is {near!r})"
    expected = f"the name of a preset{hint} or the path of a config.json; nothing is downloaded"
    raise ConfigError("rope", expected, brief(source))


def _from_parameters(parameters: Mapping[str, Any], head_dim: int | None) -> RopeConfig:
    """Return the config of a dict of parameters, for heads `head_dim` wide by default."""
    for name in parameters:
        if name not in PARAMETERS:
            other_files.refuse(parameters)
            other_files.refuse_names(parameters, None)
            near = get_close_matches(str(name), PARAMETERS, n=1)
            known = SPELLINGS.get(name) or (near[0] if near else None)
            hint = "" if known is None else f", such as {known!r}"
            expected = (
                f"a parameter of RopeConfig or of the variant{hint}; the contents of a config.json"
                " have a 'model_type'"
            )
            raise ConfigError(f"rope[{brief(name)}]", expected, "an unknown name")
    rounding = "activation" if parameters.get("arithmetic") == "hf" else "once"
    fields = {"head_dim": head_dim, "rounding": rounding, **parameters}
    if fields["head_dim"] is None:
        fields["head_dim"] = listed_rotary_dim(parameters)
    if fields["head_dim"] is None:
        raise ConfigError("head_dim", "given if there is no tensor of heads", "none")
    return RopeConfig.of(fields.pop("head_dim"), **fields)


def without_model(rope: RopeConfig | None) -> Resolved:
    """Return the result of `resolve` for a rope of no model: attention is causal."""
    return Resolved(
        rope=rope,
        nope="null rotates nothing" if rope is None else None,
        model_type="",
        layer_type=None,
        parameters=MappingProxyType({}),
        provenance=MappingProxyType({}),
        attention=AttentionConfig(),
        attends=True,
        layers=(),
        differ=False,
        keys_read=(),
        keys_ignored=(),
        position_keys_not_applied=(),
        warnings=(),
        lengths=lengths_of_rope(rope),
        why=MappingProxyType({}),
    )


def layer_kinds(
    config: RopeSource,
    *,
    model_type: str | None = None,
    part: str | None = None,
    compat: str = "5.23",
    arithmetic: Arithmetic = "hf",
    assume: str | None = None,
) -> tuple[LayerKind, ...]:
    """Resolve one layer of each kind: layers of a kind rotate alike, or do not rotate.

    The arguments are those of `resolve`. A rope without a model, one that names a layer, and
    one that is resolved already have one kind. Of a model with more than MAX_LAYERS_READ layers,
    those of one type are one kind.

    Raises:
        ConfigError: as `resolve`.
    """
    options: dict[str, Any] = {
        "model_type": model_type,
        "part": part,
        "compat": compat,
        "arithmetic": arithmetic,
        "assume": assume,
    }
    if isinstance(config, str | os.PathLike) and not _is_preset(config):
        config = _config_at(config)  # once for all layers
    try:
        whole = resolve(config, **options)
    except ConfigError as error:
        if error.parameter not in ("layer", "layer_type"):
            raise
        whole = resolve(config, layer=0, **options)
    if isinstance(config, Resolved) or _names_layer(config) or not whole.layers:
        return (LayerKind((), whole),)
    groups = {group.layers[0]: group.layers for group in whole.layers}
    if (total := sum(map(len, groups.values()))) <= MAX_LAYERS_READ:
        groups = {layer: (layer,) for layer in range(total)}
    kinds: dict[Any, tuple[Resolved, list[int]]] = {}
    for first, layers in groups.items():
        resolved = resolve(config, layer=first, **options)
        key = resolved.rope or (resolved.layer_type, resolved.attends)
        kinds.setdefault(key, (resolved, []))[1].extend(layers)
    return tuple(LayerKind(tuple(layers), resolved) for resolved, layers in kinds.values())


def _names_layer(config: RopeSource) -> bool:
    """Tell whether a rope in another form, such as `{"preset": ...}`, names a layer."""
    if not isinstance(config, Mapping) or config.keys().isdisjoint(OBJECT_FORMS):
        return False
    return any(config.get(name) is not None for name in ("layer", "layer_type"))
