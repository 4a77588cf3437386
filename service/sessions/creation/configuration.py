"""From the parameters of a new session to what its cache stores, and to what documents show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rope_core import AttentionConfig, ConfigError, ShapeError
from rope_core.kvcache.config import KVConfig
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.sessions.creation.layer_groups import (
    Group,
    attention_of,
    check_rope,
    group_document,
    kv_group,
    rope_document,
)
from service.sessions.creation.model_groups import groups_of_model
from service.sessions.creation.session_params import (
    GroupsParams,
    ModelParams,
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


def configure(params: SessionParams, resolver: RopeResolver) -> Configuration:
    """Return what a session stores. Of a model of many layers this takes some 100 ms.

    Raises:
        ConfigError, UnknownName: a parameter does not fit; the error names it.
    """
    warnings: dict[str, None] = {}
    if isinstance(params, ModelParams):
        groups = groups_of_model(params, resolver, warnings)
    elif isinstance(params, GroupsParams):
        groups = _read_groups(params.groups, resolver, warnings)
    else:
        groups = [_read_group(params, 0, "", resolver, warnings)]
    config = KVConfig(
        groups=tuple(kv_group(group) for group in groups),
        dtype=DTYPES[params.dtype],
        kv_dtype=params.kv_dtype,
    )
    document = {
        "groups": [
            group_document(group, kv) for group, kv in zip(groups, config.groups, strict=True)
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


def _read_groups(
    groups: Sequence[SessionGroup], resolver: RopeResolver, warnings: dict[str, None]
) -> list[Group]:
    built, next_layer = [], 0
    for index, group in enumerate(groups):
        name = f"groups[{index}]."
        built.append(_read_group(group, next_layer, name, resolver, warnings))
        if isinstance(group.layers, int):
            next_layer += group.layers
    return built


def _read_group(
    group: SessionGroup,
    next_layer: int,
    name: str,
    resolver: RopeResolver,
    warnings: dict[str, None],
) -> Group:
    layers = group.layers
    resolved = ResolvedRope(None)
    if group.rope is not None:
        resolved = resolver.resolve(group.rope, group.head_dim, None, f"{name}rope")
        check_rope(resolved, group.head_dim, f"{name}rope")
        warnings.update(dict.fromkeys(resolved.warnings))
    model = resolved.attention or AttentionConfig()
    kv_heads = group.kv_heads or group.heads
    return Group(
        [*range(next_layer, next_layer + layers)] if isinstance(layers, int) else layers,
        group.heads,
        kv_heads,
        group.head_dim,
        group.value_dim or group.head_dim,
        resolved.config,
        rope_document(group.rope, resolved, resolver, group.head_dim),
        attention_of(group.attention, model, f"{name}attention"),
        group.rollback,
        group.sinks,
    )
