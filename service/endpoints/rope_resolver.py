"""How a request's rope becomes the library's value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rope_core import (
    SCHEMES,
    VARIANTS,
    AttentionConfig,
    ConfigError,
    Resolved,
    RopeConfig,
    resolve,
)
from rope_core.presets import Preset
from service.endpoints.rope_params import Model, PresetModel, Rope
from service.errors import UnknownName

MAX_KNOWN = 64
"""Shapes of tensors for which a rope is kept read; beyond it all are read anew."""


@dataclass(frozen=True, slots=True)
class ResolvedRope:
    """What a request's `rope` comes to."""

    config: RopeConfig | None
    """None rotates nothing: a NoPE layer."""

    resolved: Resolved | None = None
    """What a model's config says besides."""

    own: Mapping[str, str] = field(default_factory=dict)
    """Where parameters come from, where there is no config: `given`, `default` or `derived`."""

    @property
    def rope(self) -> RopeConfig:
        """The config, of a request that must rotate.

        Raises:
            ConfigError: the layer does not rotate.
        """
        if self.config is None:
            nope = self.resolved.nope if self.resolved else "null rotates nothing"
            raise ConfigError("rope", "of a layer that rotates", f"none: {nope}")
        return self.config

    @property
    def attention(self) -> AttentionConfig | None:
        """How that layer attends, where a model says it."""
        return self.resolved.attention if self.resolved else None

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where each value comes from."""
        return self.resolved.provenance if self.resolved else self.own

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the caller should know."""
        return self.resolved.warnings if self.resolved else ()


class RopeResolver:
    """Reads what requests say of `rope`, and keeps what it has read while parameters live.

    Args:
        presets: configs by name.
    """

    def __init__(self, presets: Mapping[str, Preset]) -> None:
        self.presets = presets
        self._named = {name: PresetModel(preset=name) for name in presets}

    def read(
        self,
        given: "Rope | Model | PresetModel | str",
        head_dim: int | None,
        num_axes: int | None,
        name: str = "rope",
    ) -> ResolvedRope:
        """Return the library's value, for tensors of `head_dim`, or for tables where None.

        Args:
            given: how the request says it.
            head_dim: width of the tensors' heads.
            num_axes: numbers that make up a position, as far as tensors tell.
            name: the parameter, for errors.

        Raises:
            ConfigError, UnknownName: the request says something that no rotation has.
        """
        if isinstance(given, str):
            given = self._named.get(given) or PresetModel(preset=given)
        known, key = given.known, (self, head_dim, num_axes)
        found = known.get(key)
        if found is None:
            found = self._read(given, head_dim, num_axes, name)
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[key] = found
        return found

    def _read(
        self,
        given: "Rope | Model | PresetModel",
        head_dim: int | None,
        num_axes: int | None,
        name: str,
    ) -> ResolvedRope:
        if isinstance(given, Rope):
            return ResolvedRope(_of_parameters(given, head_dim, name), own=_provenance(given))
        if isinstance(given, PresetModel):
            preset = self.presets.get(given.preset)
            if preset is None:
                expected = "the name of a preset, which /v1/presets lists"
                raise ConfigError(f"{name}.preset", expected, repr(given.preset[:64]))
            config, model_type = preset.config, None
        else:
            config, model_type = given.config, given.model_type
        try:
            resolved = resolve(
                config,
                model_type=model_type,
                part=given.part,
                layer=given.layer,
                layer_type=given.layer_type,
                compat=given.compat,
                arithmetic=given.arithmetic,
                head_dim=head_dim,
                num_axes=num_axes,
            )
        except ConfigError as wrong:
            raise wrong.within(name) from None
        rope = resolved.rope
        if rope is not None and given.length is not None:
            if not rope.needs_length:
                expected = "absent: frequencies of this model depend on none"
                raise ConfigError(f"{name}.length", expected, given.length)
            if given.length < 0:
                raise ConfigError(f"{name}.length", "0 or more", given.length)
            rope = rope.at(given.length)
        return ResolvedRope(rope, resolved)


def _provenance(given: Rope) -> dict[str, str]:
    told = dict.fromkeys((*given.model_fields_set, *(given.model_extra or {})), "given")
    widths = dict.fromkeys(("head_dim", "rotary_dim"), "derived")
    return dict.fromkeys(Rope.model_fields, "default") | widths | told


def _of_parameters(given: Rope, head_dim: int | None, name: str) -> RopeConfig:
    widths = (given.head_dim, head_dim, given.rotary_dim)
    width = next((width for width in widths if width is not None), None)
    if width is None:
        raise ConfigError(f"{name}.head_dim", "given where no tensor has it", "none")
    own = set(VARIANTS[given.rope_type].parameters)
    own |= SCHEMES[given.axes].parameters.keys() if given.axes else set()
    extra = given.model_extra or {}
    if unknown := sorted(extra.keys() - own):
        known = [*Rope.model_fields, *sorted(own)]
        raise UnknownName("parameter", f"{name}.{unknown[0]}", known)
    fields = given.model_dump(exclude={"head_dim", *extra})
    usual = "activation" if given.arithmetic == "hf" else "once"
    fields["rounding"] = given.rounding or usual
    try:
        return RopeConfig.of(width, **fields, **extra)
    except ConfigError as wrong:
        raise wrong.within(name) from None
