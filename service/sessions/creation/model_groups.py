"""The groups of a new session for all layers of a model."""

from collections.abc import Iterator

from rope_core import AttentionConfig, ConfigError
from rope_core.hf import read_heads
from service.endpoints.rope_params import Model, PresetModel
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.sessions.creation.layer_groups import Group, attention_of, check_rope, rope_document
from service.sessions.creation.session_params import MAX_LAYERS, ModelParams


def groups_of_model(
    params: ModelParams, resolver: RopeResolver, warnings: dict[str, None]
) -> list[Group]:
    """Return the layers of a model, those that are alike in one group."""
    groups: dict[tuple[object, ...], Group] = {}
    for layer, rope, resolved in _layers_of_model(params, resolver):
        for warning in resolved.warnings:
            warnings[warning] = None
        assert resolved.model is not None, "the rope is that of a model"
        try:
            resolved.model.require_attention()
        except ConfigError as error:
            raise ConfigError(f"layer {layer}", error.expected, error.got) from None
        group = _group_of_layer(params, layer, rope, resolved, resolver)
        if group.key in groups:
            groups[group.key].layers.append(layer)
        else:
            groups[group.key] = group
    return [*groups.values()]


def _layers_of_model(
    params: ModelParams, resolver: RopeResolver
) -> Iterator[tuple[int, Model | PresetModel, ResolvedRope]]:
    """Yield each layer, its rope as a request would have it, and the library's values."""
    options = {
        name: getattr(params, name) for name in ("part", "compat", "arithmetic", "assume", "length")
    }
    if params.config is not None:
        options |= {"config": params.config, "model_type": params.model_type}
    elif params.model_type is not None:
        raise ConfigError("model_type", "absent if preset is given", params.model_type)
    source: type[Model | PresetModel] = PresetModel if params.config is None else Model
    if params.preset is not None:
        options["preset"] = params.preset
    without_length = options | {"length": None}
    layer, num_layers = 0, 1
    while layer < num_layers:
        rope = source(**options, layer=layer)
        try:
            resolved = resolver.resolve(rope, params.head_dim, None, "config")
        except ConfigError:
            if params.length is None:
                raise
            rope = source(**without_length, layer=layer)  # layers without such frequencies
            resolved = resolver.resolve(rope, params.head_dim, None, "config")
        if not layer:
            num_layers = _num_layers(resolved)
        yield layer, rope, resolved
        layer += 1


def _num_layers(resolved: ResolvedRope) -> int:
    assert resolved.model is not None, "the rope is that of a model"
    num_layers = sum(len(each.layers) for each in resolved.model.layers)
    if not num_layers:
        expected = "one that says how many layers the model has; or send groups"
        raise ConfigError("config", expected, "none")
    if num_layers > MAX_LAYERS:
        raise ConfigError("config", f"one of at most {MAX_LAYERS} layers", num_layers)
    return num_layers


def _group_of_layer(
    params: ModelParams,
    layer: int,
    rope: Model | PresetModel,
    resolved: ResolvedRope,
    resolver: RopeResolver,
) -> Group:
    source = rope.config if isinstance(rope, Model) else resolver.config_of(rope.preset)
    heads = read_heads(
        source,
        model_type=params.model_type,
        part=params.part,
        layer=layer,
        compat=params.compat,
    )
    num_heads = _required("heads", params.heads, heads.num_heads)
    num_kv_heads = _required("kv_heads", params.kv_heads, heads.num_kv_heads)
    of_rope = resolved.config.head_dim if resolved.config is not None else None
    of_config = heads.head_dim if heads.value_dim != heads.head_dim else of_rope or heads.head_dim
    head_dim = _required("head_dim", params.head_dim, of_config)
    if resolved.config is not None and head_dim != of_rope:
        resolved = resolver.resolve(rope, head_dim, None, "config")
    check_rope(resolved, head_dim, "config")
    value_dim = params.value_dim or (
        heads.value_dim if heads.value_dim != heads.head_dim else head_dim
    )
    return Group(
        [layer],
        num_heads,
        num_kv_heads,
        head_dim,
        value_dim or head_dim,
        resolved.config,
        rope_document(rope, resolved, resolver, head_dim),
        attention_of(params.attention, resolved.attention or AttentionConfig(), "attention"),
        params.rollback,
        params.sinks,
    )


def _required(name: str, requested: int | None, of_config: int | None) -> int:
    if requested is not None:
        return requested
    if of_config is None:
        raise ConfigError(name, "given, because the config does not say it", "none")
    return of_config
