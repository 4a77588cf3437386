"""Turns the rope of a request into the library's value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rope_core import (
    SCHEMES,
    VARIANTS,
    AttentionConfig,
    ConfigError,
    Resolved,
    RopeConfig,
)
from rope_core.calls import TakenLength, taken_length
from rope_core.hf import resolve
from rope_core.hf.other_files import describe, describe_names
from rope_core.own_frequencies import LISTS, implied_rope_type, listed_rotary_dim
from rope_core.presets import Preset, lookup
from rope_core.presets.folder import RefusedPreset
from rope_core.sources import SPELLINGS, RopeSource, is_of_model
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.errors import UnknownName

MAX_CACHED = 64
"""Combinations of head_dim and num_axes that are cached for one rope; then its cache is cleared."""


@dataclass(frozen=True, slots=True)
class ResolvedRope:
    """The library's value for the rope of a request."""

    config: RopeConfig | None
    """None for a layer that rotates nothing (NoPE)."""

    model: Resolved | None = None
    """What the config of a model says; None for a rope that is given by parameters."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where each value comes from: `given`, `class default`, `default` or `derived`."""

    warnings: tuple[str, ...] = ()

    length: TakenLength | None = None
    """The length that the request fixes for the config of a model."""

    source: RopeSource | None = None
    """The rope in a form of the library: the config of a model with its options, which resolves
    to other layers as well, unless the request fixes a length."""

    @property
    def rope(self) -> RopeConfig:
        """The config of a request that must rotate.

        Raises:
            ConfigError: the layer does not rotate.
        """
        if self.config is not None:
            return self.config
        if self.model is not None:
            return self.model.require_rope()
        got = "one that does not: null rotates nothing"
        raise ConfigError("rope", "that of a layer that rotates", got)

    @property
    def attention(self) -> AttentionConfig | None:
        """How the layer attends, where the config of a model says it."""
        return self.model.attention if self.model else None


class RopeResolver:
    """Resolves ropes, and caches the results in the ropes themselves.

    Args:
        presets: configs of models by name, and files that are none.
    """

    def __init__(self, presets: Mapping[str, Preset | RefusedPreset]) -> None:
        self.presets = presets
        self._ropes_by_name = {name: PresetModel(preset=name) for name in presets}

    def resolve(
        self,
        rope: Rope | Model | PresetModel | str,
        head_dim: int | None,
        num_axes: int | None,
        name: str = "rope",
    ) -> ResolvedRope:
        """Return the library's value for a rope.

        Args:
            rope: the rope in any form.
            head_dim: width of the heads to rotate; None where there are no heads.
            num_axes: how many numbers make up a position; None where the tensors do not tell.
            name: the parameter that holds the rope, for errors.

        Raises:
            ConfigError, UnknownName: the rope has a value or a name that no rotation has.
        """
        if isinstance(rope, str):
            rope = self._ropes_by_name.get(rope) or self._rope_by_id(rope)
        cache, key = rope.resolved, (self, head_dim, num_axes)
        resolved: ResolvedRope | None = cache.get(key)
        if resolved is None:
            try:
                resolved = self._resolve(rope, head_dim, num_axes, name)
            except ConfigError as error:
                raise error.nested_in(name) from None
            if len(cache) >= MAX_CACHED:
                cache.clear()
            cache[key] = resolved
        return resolved

    def config_of(self, preset: str) -> Mapping[str, Any]:
        """Return the contents of a preset's config.json. Raises ConfigError if there is none."""
        return self._preset(preset).config

    def _rope_by_id(self, name: str) -> PresetModel:
        """Return the rope of a preset that is named by its id on Hugging Face, or in other case."""
        preset = lookup.find(name, self.presets)
        return PresetModel(preset=name) if preset is None else self._ropes_by_name[preset.name]

    def _preset(self, name: str) -> Preset:
        """Return a preset by its name or its id on Hugging Face.

        Raises:
            ConfigError: there is none, or the file of the operator is refused.
        """
        preset = lookup.find(name, self.presets)
        if isinstance(preset, Preset):
            return preset
        if preset is not None:
            expected = "one whose file the service can read"
            raise ConfigError("preset", expected, f"{preset.name!r}: {preset.reason}")
        near = lookup.nearest(name, self.presets)
        hint = "" if near is None else f" (the nearest is {near!r})"
        expected = f"the name of a preset, which /v1/presets lists{hint}"
        raise ConfigError("preset", expected, repr(name[:64]))

    def _resolve(
        self,
        rope: Rope | Model | PresetModel,
        head_dim: int | None,
        num_axes: int | None,
        name: str,
    ) -> ResolvedRope:
        if isinstance(rope, Rope):
            built = _build_config(rope, head_dim, name)
            return ResolvedRope(built, None, _provenance(rope), source=built)
        source: Mapping[str, Any]
        if isinstance(rope, Model):
            source, model_type = rope.config, rope.model_type
        else:
            source, model_type = self._preset(rope.preset).config, None
        options: dict[str, Any] = {
            "model_type": model_type,
            "part": rope.part,
            "layer": rope.layer,
            "layer_type": rope.layer_type,
            "compat": rope.compat,
            "arithmetic": rope.arithmetic,
            "assume": rope.assume,
        }
        model = resolve(source, head_dim=head_dim, num_axes=num_axes, **options)
        config, length = model.rope, None
        given = {key: value for key, value in options.items() if value is not None}
        library_form: RopeSource = {"config": source, **given}
        if config is not None and rope.length is not None:
            if not config.needs_length:
                expected = "absent: the frequencies of this model do not depend on a length"
                raise ConfigError("length", expected, rope.length)
            if rope.length < 0:
                raise ConfigError("length", "0 or more", rope.length)
            fixed = TakenLength(rope.length, f"{name}.length")
            length = taken_length(config, lambda: fixed)
            config = config.for_length(rope.length)
            library_form = replace(model, rope=config)
        return ResolvedRope(config, model, model.provenance, model.warnings, length, library_form)


def _provenance(rope: Rope) -> dict[str, str]:
    extra = rope.model_extra or {}
    given = dict.fromkeys((*rope.model_fields_set, *extra), "given")
    derived = dict.fromkeys(("head_dim", "rotary_dim"), "derived")
    if implied_rope_type(extra) != "default":
        derived["rope_type"] = "derived"
    return dict.fromkeys(Rope.model_fields, "default") | derived | given


def _build_config(rope: Rope, tensor_head_dim: int | None, name: str) -> RopeConfig:
    extra = rope.model_extra or {}
    is_named = "rope_type" in rope.model_fields_set
    rope_type = rope.rope_type if is_named else implied_rope_type(extra)
    valid = set(VARIANTS[rope_type].parameters)
    valid |= SCHEMES[rope.axes].parameters.keys() if rope.axes else set()
    if unknown := sorted(extra.keys() - valid):
        names = [*Rope.model_fields, *sorted(valid)]
        hint = ""
        if text := describe(extra):
            hint = f"this looks like {text}"
        elif is_of_model(extra):
            hint = f'send the contents of a config.json as {{"{name}": {{"config": ...}}}}'
        elif text := describe_names(extra):
            hint = f"this looks like {text}"
        elif (other := SPELLINGS.get(unknown[0])) in (*names, *LISTS):
            hint = f"did you mean {name}.{other}?"
        raise UnknownName("parameter", f"{name}.{unknown[0]}", names, hint)
    widths = (rope.head_dim, tensor_head_dim, rope.rotary_dim, listed_rotary_dim(extra))
    head_dim = next((width for width in widths if width is not None), None)
    if head_dim is None:
        if rope_type in LISTS:
            VARIANTS[rope_type].parameters[rope_type].check(extra.get(rope_type))
        raise ConfigError("head_dim", "given if there is no tensor of heads", "none")
    fields = rope.model_dump(exclude={"head_dim", *extra}) | {"rope_type": rope_type}
    default_rounding = "activation" if rope.arithmetic == "hf" else "once"
    fields["rounding"] = rope.rounding or default_rounding
    return RopeConfig.of(head_dim, **fields, **extra)
