"""From the parameters of a new session to what its cache stores, and to what documents show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from rope_core import AttentionConfig, ConfigError, RopeConfig, ShapeError
from rope_core.hf import read_heads
from rope_core.kvcache.config import KVConfig, KVGroup
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.sessions.session_params import (
    MAX_LAYERS,
    GroupsParams,
    ModelParams,
    SessionAttention,
    SessionGroup,
    SessionParams,
)

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a session stores."""

    config: KVConfig
    document: Mapping[str, Any]
    """As documents show it: groups with layers as lists, all defaults written out."""
    warnings: tuple[str, ...] = ()
    """For the client that creates the session."""


@dataclass(slots=True)
class _Group:
    """A group before its layers are complete."""

    layers: list[int]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    rope: RopeConfig | None
    rope_document: Any
    attention: AttentionConfig
    rollback: int
    sinks: Any

    @property
    def key(self) -> tuple[object, ...]:
        """What is equal in layers of one group."""
        shape = self.num_heads, self.num_kv_heads, self.head_dim, self.value_dim
        return self.rope, self.attention, shape


def configure(params: SessionParams, resolver: RopeResolver) -> Configuration:
    """Return what a session stores. Of a model of many layers this takes some 100 ms.

    Raises:
        ConfigError, UnknownName: a parameter does not fit; the error names it.
    """
    warnings: dict[str, None] = {}
    if isinstance(params, ModelParams):
        groups = _groups_of_model(params, resolver, warnings)
    elif isinstance(params, GroupsParams):
        groups = _groups(params.groups, resolver, warnings)
    else:
        groups = [_group(params, 0, "", resolver, warnings)]
    config = KVConfig(
        groups=tuple(_kv_group(group) for group in groups),
        dtype=DTYPES[params.dtype],
        kv_dtype=params.kv_dtype,
    )
    document = {
        "groups": [
            _group_document(group, kv) for group, kv in zip(groups, config.groups, strict=True)
        ],
        "dtype": params.dtype,
        "kv_dtype": params.kv_dtype,
        "batch": params.batch,
        "max_tokens": params.max_tokens,
    }
    return Configuration(config, document, tuple(warnings))


def with_sinks(configuration: Configuration, index: int, sinks: torch.Tensor) -> Configuration:
    """Return a configuration with the sinks of a group, given as the tensor `sinks.{index}`.

    Raises:
        ShapeError: the tensor does not fit.
        ConfigError: there is no such group.
    """
    groups = [*configuration.config.groups]
    if index >= len(groups):
        raise ConfigError(f"sinks.{index}", f"of a group, below {len(groups)}", index)
    group, name = groups[index], f"sinks.{index}"
    num_layers, heads = len(group.layers), group.num_heads
    if not sinks.is_floating_point() or tuple(sinks.shape) not in (
        (heads,),
        (num_layers, heads),
    ):
        got = f"{str(sinks.dtype).removeprefix('torch.')}{[*sinks.shape]}"
        raise ShapeError(name, f"float [{heads}] or [{num_layers}, {heads}]", got)
    rows = tuple(map(tuple, sinks.float().expand(num_layers, heads).tolist()))
    groups[index] = replace(group, sinks=rows)
    documents = [{**each} for each in configuration.document["groups"]]
    documents[index]["sinks"] = [[*row] for row in rows]
    return replace(
        configuration,
        config=replace(configuration.config, groups=tuple(groups)),
        document={**configuration.document, "groups": documents},
    )


def _groups(
    groups: Sequence[SessionGroup], resolver: RopeResolver, warnings: dict[str, None]
) -> list[_Group]:
    built, next_layer = [], 0
    for index, group in enumerate(groups):
        name = f"groups[{index}]."
        built.append(_group(group, next_layer, name, resolver, warnings))
        if isinstance(group.layers, int):
            next_layer += group.layers
    return built


def _group(
    group: SessionGroup,
    next_layer: int,
    name: str,
    resolver: RopeResolver,
    warnings: dict[str, None],
) -> _Group:
    layers = group.layers
    resolved = ResolvedRope(None)
    if group.rope is not None:
        resolved = resolver.resolve(group.rope, group.head_dim, None, f"{name}rope")
        check_rope(resolved, group.head_dim, f"{name}rope")
        warnings.update(dict.fromkeys(resolved.warnings))
    model = resolved.attention or AttentionConfig()
    kv_heads = group.kv_heads or group.heads
    return _Group(
        [*range(next_layer, next_layer + layers)] if isinstance(layers, int) else layers,
        group.heads,
        kv_heads,
        group.head_dim,
        group.value_dim or group.head_dim,
        resolved.config,
        rope_document(group.rope, resolved, resolver, group.head_dim),
        _attention(group.attention, model, f"{name}attention"),
        group.rollback,
        group.sinks,
    )


def _groups_of_model(
    params: ModelParams, resolver: RopeResolver, warnings: dict[str, None]
) -> list[_Group]:
    """Return the layers of a model, those that are alike in one group."""
    groups: dict[tuple[object, ...], _Group] = {}
    for layer, rope, resolved in _layers_of_model(params, resolver):
        for warning in resolved.warnings:
            warnings[warning] = None
        assert resolved.model is not None, "the rope is that of a model"
        try:
            resolved.model.require_attention()
        except ConfigError as error:
            raise ConfigError(f"layer {layer}", error.expected, error.got) from None
        group = _group_of_layer(params, layer, rope, resolved, resolver)
        if (known := groups.get(group.key)) is not None:
            known.layers.append(layer)
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
) -> _Group:
    source = rope.config if isinstance(rope, Model) else resolver.config_of(rope.preset)
    heads = read_heads(
        source,
        model_type=params.model_type,
        part=params.part,
        layer=layer,
        compat=params.compat,
    )
    num_heads = _given("heads", params.heads, heads.num_heads)
    num_kv_heads = _given("kv_heads", params.kv_heads, heads.num_kv_heads)
    of_rope = resolved.config.head_dim if resolved.config is not None else None
    of_config = heads.head_dim if heads.value_dim != heads.head_dim else of_rope or heads.head_dim
    head_dim = _given("head_dim", params.head_dim, of_config)
    if resolved.config is not None and head_dim != of_rope:
        resolved = resolver.resolve(rope, head_dim, None, "config")
    check_rope(resolved, head_dim, "config")
    value_dim = params.value_dim or (
        heads.value_dim if heads.value_dim != heads.head_dim else head_dim
    )
    return _Group(
        [layer],
        num_heads,
        num_kv_heads,
        head_dim,
        value_dim or head_dim,
        resolved.config,
        rope_document(rope, resolved, resolver, head_dim),
        _attention(params.attention, resolved.attention or AttentionConfig(), "attention"),
        params.rollback,
        params.sinks,
    )


def _given(name: str, requested: int | None, of_config: int | None) -> int:
    if requested is not None:
        return requested
    if of_config is None:
        raise ConfigError(name, "given, because the config does not say it", "none")
    return of_config


def check_rope(resolved: ResolvedRope, head_dim: int, name: str) -> None:
    """Check that the keys of a session can rotate so.

    Raises:
        ConfigError: the layer is not clear, or the frequencies depend on the length of a call.
    """
    if resolved.model is not None and resolved.model.differ:
        expected = "given, or layer_type: the layers of this model differ"
        raise ConfigError(f"{name}.layer", expected, "none")
    config = resolved.config
    if config is None:
        return
    if config.head_dim != head_dim:
        raise ConfigError(f"{name}.head_dim", f"{head_dim}, as head_dim", config.head_dim)
    if config.needs_length:
        parameter = "length" if name == "config" else f"{name}.length"
        expected = (
            "given: the frequencies depend on a length, and keys are rotated once, so that a "
            "session needs the length that decides them"
        )
        raise ConfigError(parameter, expected, "none")


def _attention(members: SessionAttention, model: AttentionConfig, name: str) -> AttentionConfig:
    try:
        return members.override(model)
    except ConfigError as error:
        raise error.nested_in(name) from None


def _kv_group(group: _Group) -> KVGroup:
    return KVGroup(
        layers=tuple(group.layers),
        num_heads=group.num_heads,
        num_kv_heads=group.num_kv_heads,
        head_dim=group.head_dim,
        value_dim=group.value_dim,
        rope=group.rope,
        attention=group.attention,
        sinks=_sinks(group),
        rollback=group.rollback,
    )


def _sinks(group: _Group) -> tuple[tuple[float, ...], ...] | None:
    """Return the sinks of each layer of a group."""
    sinks = group.sinks
    if sinks is None:
        return None
    is_nested = bool(sinks) and isinstance(sinks[0], list)
    rows = sinks if is_nested else [sinks] * len(group.layers)
    if len(rows) != len(group.layers) or any(len(row) != group.num_heads for row in rows):
        expected = f"[{group.num_heads}] or [{len(group.layers)}][{group.num_heads}]"
        raise ConfigError("sinks", expected, f"[{len(sinks)}]")
    return tuple(tuple(map(float, row)) for row in rows)


def _group_document(group: _Group, kv: KVGroup) -> dict[str, Any]:
    attention = {name: getattr(kv.attention, name) for name in SessionAttention.model_fields}
    return {
        "layers": [*kv.layers],
        "heads": kv.num_heads,
        "kv_heads": kv.num_kv_heads,
        "head_dim": kv.head_dim,
        "value_dim": kv.value_dim,
        "rope": group.rope_document,
        "attention": attention,
        "sinks": None if kv.sinks is None else [[*row] for row in kv.sinks],
        "rollback": kv.rollback,
    }


def rope_document(rope: Any, resolved: ResolvedRope, resolver: RopeResolver, head_dim: int) -> Any:
    """Return a rope with all defaults, from which a request makes an equal one; None of NoPE.

    It has parameters. A rotation that no parameters describe is written as the model that has it.
    """
    config = resolved.config
    if config is None:
        return None
    names = {field.name for field in fields(config) if field.init}
    document = {name: getattr(config, name) for name in Rope.model_fields if name in names}
    document |= dict(config.parameters) | dict(config.axes_parameters)
    if config.rope_type in ("inv_freq",):
        del document["theta"]
    document = {name: _plain(value) for name, value in document.items() if value is not None}
    try:
        again = resolver.resolve(Rope.model_validate(document), head_dim, None).config
    except Exception:  # a value that only the config of a model has
        again = None
    if again == config or not isinstance(rope, Model | PresetModel):
        return document
    return {name: value for name, value in rope.model_dump().items() if value is not None}


def _plain(value: Any) -> Any:
    return [*map(_plain, value)] if isinstance(value, tuple | list) else value
