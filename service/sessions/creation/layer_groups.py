"""A group of layers of a new session: what is stored, and what documents show."""

from dataclasses import dataclass, fields
from typing import Any

from rope_core import AttentionConfig, ConfigError, RopeConfig
from rope_core.kvcache.config import KVGroup
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.sessions.creation.session_params import SessionAttention


@dataclass(slots=True)
class Group:
    """A group of layers, read from a request or a model, whose list of layers may grow."""

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


def kv_group(group: Group) -> KVGroup:
    """Return a group as a cache stores it. Raises ConfigError."""
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


def _sinks(group: Group) -> tuple[tuple[float, ...], ...] | None:
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


def group_document(group: Group, kv: KVGroup) -> dict[str, Any]:
    """Return a group as documents show it; `kv` is its `kv_group`."""
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


def attention_of(members: SessionAttention, model: AttentionConfig, name: str) -> AttentionConfig:
    """Return the attention of a model, changed by the members of a request. Raises ConfigError."""
    try:
        return members.override(model)
    except ConfigError as error:
        raise error.nested_in(name) from None


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


def rope_document(rope: Any, resolved: ResolvedRope, resolver: RopeResolver, head_dim: int) -> Any:
    """Return the rope of a group as documents show it: a request with it gets an equal rope.

    All defaults are written out; None for NoPE. A rope that parameters cannot describe is written
    as the model of the request.
    """
    config = resolved.config
    if config is None:
        return None
    names = {field.name for field in fields(config) if field.init}
    document = {name: getattr(config, name) for name in Rope.model_fields if name in names}
    document |= dict(config.parameters) | dict(config.axes_parameters)
    if config.rope_type == "inv_freq":
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
