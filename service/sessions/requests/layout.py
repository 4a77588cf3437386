"""Groups and batch keys of the layers of a session, cached by configuration."""

from dataclasses import dataclass

from rope_core import ConfigError
from rope_core.kvcache.config import KVConfig, KVGroup
from service.sessions.lifetime.session import Session


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of a configuration."""

    groups: tuple[KVGroup, ...]
    """Of each layer."""
    batch_keys: tuple[str, ...]
    """Of each layer: calls of layers with equal keys may share a run."""
    num_axes: int
    """Numbers of a position."""
    broadcasts_axes: bool
    """Whether one number may stand for those of all axes, as that of a text token."""

    def group_of(self, layers: list[int]) -> KVGroup:
        """Return the group of layers.

        Raises:
            ConfigError: a layer does not exist or is named twice, or they are of several groups.
        """
        groups = self.groups
        for layer in layers:
            if layer >= len(groups):
                raise ConfigError("layer", f"below {len(groups)}, the layers of the session", layer)
        first = groups[layers[0]]
        if len(layers) > 1:
            if len(set(layers)) < len(layers):
                raise ConfigError("layers", "a list in which each layer is once", layers[:8])
            if any(groups[layer] is not first for layer in layers):
                raise ConfigError("layers", "layers of one group", layers[:8])
        return first


MAX_CACHED = 1024
"""Most layouts in the cache; then the cache is cleared."""

_layouts: dict[str, Layout] = {}


def layout_of(session: Session) -> Layout:
    """Return the layout of a session's configuration."""
    layout = _layouts.get(session.configuration_digest)
    if layout is None:
        if len(_layouts) >= MAX_CACHED:
            _layouts.clear()
        layout = _layouts[session.configuration_digest] = _layout(session.cache.config)
    return layout


def _layout(config: KVConfig) -> Layout:
    groups: list[KVGroup] = [config.groups[0]] * config.num_layers
    for group in config.groups:
        for layer in group.layers:
            groups[layer] = group
    keys = {id(group): str(config.batch_key(group)) for group in config.groups}
    ropes = [group.rope for group in config.groups if group.rope is not None]
    return Layout(
        tuple(groups),
        tuple(keys[id(group)] for group in groups),
        num_axes=max([rope.num_axes for rope in ropes], default=1),
        broadcasts_axes=all(
            rope.num_axes == 1 or rope.frequency_table.broadcasts_axes for rope in ropes
        ),
    )
