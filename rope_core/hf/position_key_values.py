"""Whether a value of a position key changes nothing: the usual one, or the one that is applied."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.config import RopeConfig
from rope_core.frequencies import VARIANTS
from rope_core.hf.config_reader import DICTIONARIES, is_int
from rope_core.hf.position_key_names import (
    HEAD_WIDTHS,
    TRAINED_LENGTHS,
    is_of_other_encoding,
    is_relative_size,
    snake_case,
)
from rope_core.hf.variant import ORIGINAL, USUAL

LLAMA_KEYS = frozenset((*DICTIONARIES, "rope_theta", "partial_rotary_factor", "head_dim", ORIGINAL))
"""Position keys that are read of a config with an unknown model_type."""

_BASE = re.compile(r"\w*(?:theta|base|base_freq(?:uency)?|freqs?_base|wavelength)")
_SHARE = re.compile(r"\w*(?:pct|percent|percentage|fraction|rotary_factor|rotary_ratio)")
_ROTATED_WIDTH = re.compile(r"\w*(?:rotary|rope)_(?:emb_|embedding_|head_)?dim")
_INTERLEAVED = re.compile(r"(?:(?:is_|use_)?|(?:indexer_)?(?:rope|rotary)_(?:\w+_)?)interleaved?")
_HALVES = re.compile(r"(?<![a-z])(?:neox|half|halves)(?![a-z])")
"""Words of pairs that are as far apart as half of the rotated part."""

_RATIO = re.compile(
    r"\w*(?:factor|ratio|pct|percent|percentage|fraction|scale|scaling|alpha"
    r"|alpha_value)"
)
"""Names of what multiplies or divides: 1 changes nothing."""

_VARIANT = re.compile(r"(?:rope|rotary)_(?:scaling_)?type")
_ENCODING = re.compile(r"(?:(?:pos|position|positional)_\w*|pe_)type")
"""Names of the type of position encoding."""

_ROTATES = re.compile(
    r"(?:(?:use|apply|enable|with|add)_)?(?:rope|rotary)(?:_(?:pos|position))?"
    r"(?:_(?:emb|embed|embedding|embeddings))?"
)
"""Names of switches that turn rotation on."""

_ROPE = re.compile(r"(?<![a-z])(?:rope|rotary)(?![a-z])")
_PLACES = re.compile(
    r"(?:(?:use|apply|enabled?|with|add|has|is|do|in|on|to|for|self|attn|attention|q|k|qk|global"
    r"|local|full|sliding|swa|window|all|layers?|rope|rotary|pos|position|emb|embed|embedding)"
    r"(?:_|$))+"
)
"""Names, with `_ROPE`, of switches that turn rotation on in some layers."""

_QUANTITY = re.compile(
    r"(?<![a-z])(?:dims?|size|base|theta|interval|layers?|factor|ratio|pct|percent|percentage"
    r"|fraction|scale|scaling|alpha|beta|max|min|num|n|freqs?|wavelength|length|len|index|type"
    r"|section|mscale|width|offset|shift|init)(?![a-z])"
)
"""Words of numbers of which 0 and 1 are no switch."""

_OFF_IN_LLAMA = re.compile(
    r"(?<![a-z])(?:alibi|ntk|yarn|x_?pos|log_?n|log|dynamic|dual_chunk|long|scaling|scaled?"
    r"|temperature|learned|learnable|trainable|absolute|abs|relative|rel|r?pe|cope|sinusoidal"
    r"|self_extend|interpolat(?:e|ion)|gptj|fused?|fusion|flash|cast|cache|fp32|float32|\dd"
    r"|[a-z\d]+rope|rope[a-z\d]+)(?![a-z])"
)
"""Words of switches that are false of a Llama: what it does not have, and what changes no angle."""

_ADDED = frozenset(("absolute", "learned", "sine", "sincos", "sinusoidal"))
"""Names of types of positions that are added to embeddings, not to queries and keys."""

_NOPE = re.compile(r"(?<![a-z])(?:nope|no|non|not|without|disabled?|skip|drop|remove)(?![a-z])")
"""Names of switches that turn rotation off."""

_RELATIVE = re.compile(r"rel(?:ative)?_")
"""Names of what relative positions need."""

_ROTATION = frozenset(("rope", "rotary", "rotary_embedding", "rotary_position_embedding"))
"""Names of rotation as a type of position encoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the layers of a model apply, those that rotate and those that do not."""

    ropes: tuple[RopeConfig, ...] = ()
    parameters: tuple[Mapping[str, Any], ...] = ()
    """Their rope parameters, in transformers 5's spelling; () before layers are read."""

    head_widths: frozenset[float] = frozenset()
    """Widths of a head: of MLA the part that rotates, and the whole."""

    keys_read: frozenset[str] = LLAMA_KEYS
    keys_without_effect: frozenset[str] = frozenset()
    """Keys that were read and that no layer follows."""

    reasons: tuple[str, ...] = ()
    """Why layers do not rotate."""

    num_layers: Any = None
    """The number of layers in the file, of any type."""

    is_known: bool = False
    """Whether the family is known: only then other names than Llama's have their usual meaning."""

    @property
    def interleaved(self) -> bool:
        """Whether neighbours are a pair."""
        return any(rope.layout.startswith("interleaved") for rope in self.ropes)

    @property
    def reason_words(self) -> set[str]:
        """The words of the reasons."""
        return set(re.findall(r"[a-z]+", " ".join(self.reasons).lower()))

    @property
    def rotates(self) -> bool:
        """Whether there are layers that rotate, as in a Llama."""
        return bool(self.ropes) or not self.is_known


def is_parameter(key: str, value: Any, applied: Applied) -> bool:
    """Return whether a layer has this rope parameter."""
    if key == "max_position_embeddings":
        lengths = [dict(rope.parameters).get(key, value) for rope in applied.ropes]
        return value in lengths
    name = {"type": "rope_type", "xdrope_section": "mrope_section"}.get(key, key)
    value = [*value] if isinstance(value, tuple) else value
    return any(name in of_layer and of_layer[name] == value for of_layer in applied.parameters)


def is_inert(name: str, value: Any, applied: Applied) -> bool:
    """Return whether a value changes nothing: it is the usual one, or the applied one."""
    name = snake_case(name)
    if value is None or value in ("", [], {}) or _is_said_by_reason(name, applied):
        return True
    if isinstance(value, bool) or (
        is_int(value) and value in (0, 1) and not _QUANTITY.search(name)
    ):
        return _is_inert_switch(name, bool(value), applied)
    if isinstance(value, str):
        return _is_inert_type(name, value.lower(), applied)
    if isinstance(value, list):
        if name == "no_rope_layers":
            # a list of the indices of layers, such as [1, 3], has no item for each layer
            return len(value) == applied.num_layers and all(item == 1 for item in value)
        return applied.is_known and all(_is_applied(name, item, applied) for item in value)
    return _is_inert_number(name, value, applied)


def _is_said_by_reason(name: str, applied: Applied) -> bool:
    """Return whether a key is of the encoding that the model has instead of any rotation."""
    if applied.rotates or not is_of_other_encoding(name) or _ENCODING.fullmatch(name):
        return False
    return not _RELATIVE.search(name) or "relative" in applied.reason_words


def _is_inert_switch(name: str, value: bool, applied: Applied) -> bool:
    if _ROTATES.fullmatch(name):
        return value is applied.rotates
    if name == "mrope_interleaved":
        return value is any(rope.axes == name for rope in applied.ropes)
    if _INTERLEAVED.fullmatch(name):
        return value is applied.interleaved
    if _HALVES.search(name):
        return value is not applied.interleaved
    if _NOPE.search(name):
        return value is not applied.rotates
    if _ROPE.search(name) and _PLACES.fullmatch(name):
        return value is applied.rotates and not (value and applied.reasons)
    if value:
        return False
    is_other = is_of_other_encoding(name) or bool(_OFF_IN_LLAMA.search(name))
    return is_other or (bool(_ROPE.search(name)) and not applied.rotates)


def _is_inert_type(name: str, value: str, applied: Applied) -> bool:
    if _VARIANT.fullmatch(name):
        if value == "none" and "scaling" not in name:
            return not applied.rotates
        return value in ("none", "default", *(rope.rope_type for rope in applied.ropes))
    if name == "rope_mode" and (axes := re.fullmatch(r"(\d)d", value)):
        return any(rope.num_axes == int(axes[1]) for rope in applied.ropes)
    if not _ENCODING.fullmatch(name):
        return False
    if value == "rope_gptj":
        return applied.interleaved
    if value in _ROTATION:
        return applied.rotates
    said = applied.reason_words | _ADDED | {"nope"}
    return not applied.rotates and not said.isdisjoint(re.split(r"[^a-z]+", value))


def _is_inert_number(name: str, value: Any, applied: Applied) -> bool:
    if name == "no_rope_layer_interval" and "no_rope_layers" in applied.keys_read:
        return True
    has_usual_meaning = applied.is_known or name in LLAMA_KEYS
    if name in TRAINED_LENGTHS:
        lengths = [
            dict(rope.parameters).get(ORIGINAL)
            for rope in applied.ropes
            if ORIGINAL in VARIANTS[rope.rope_type].parameters
        ]
        return has_usual_meaning and (not lengths or value in lengths)
    if (value == 1 and _RATIO.fullmatch(name)) or value in USUAL.get(name, ()):
        return True
    if is_relative_size(name):
        return value in (0, -1)
    if applied.ropes and _ROPE.search(name) and not name.startswith("qk_"):  # of MLA's heads
        has_usual_meaning = True
    return has_usual_meaning and _is_applied(name, value, applied)


def _is_applied(name: str, value: Any, applied: Applied) -> bool:
    """Return whether a layer has this value under another name."""
    ropes = applied.ropes
    if name in HEAD_WIDTHS:
        return not ropes or any(value == width for width in applied.head_widths)
    if _BASE.fullmatch(name):
        return any(value == rope.theta for rope in ropes)
    if _SHARE.fullmatch(name) and isinstance(value, int | float) and 0 <= value <= 4:
        widths = {int(width * value) for width in applied.head_widths}
        return any(rope.rotary_dim - width in (0, 1) for rope in ropes for width in widths)
    if _ROTATED_WIDTH.fullmatch(name):
        return any(value == rope.rotary_dim for rope in ropes) or (value == 0 and not ropes)
    return False
