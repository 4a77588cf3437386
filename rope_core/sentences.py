"""Sentences about a resolved rope: how much of a head turns, how fast, and in which layers."""

from collections.abc import Iterator, Sequence

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf.lengths import ORIGINAL, Lengths
from rope_core.hf.resolve import LayerKind, Resolved
from rope_core.ntk_variants import doublings
from rope_core.pairs import SEVERAL_AXES, axis_names, pair_axis
from rope_core.scaling import divisors, exact_frequencies, scaling

WITHOUT_BASE = ("atoms", "axial_pixel")
"""Schemes whose frequencies do not follow from `theta`."""

BANDS = ("yarn", "llama3")
"""Variants with pairs that are kept, blended and divided by one factor."""

PER_LAYER_KEYS = ("layer_rope_theta", "per_layer_config", "rope_scaling_layers")
"""Keys with values for single layers: layers of one type may rotate in different ways."""


def summary(resolved: Resolved) -> str:
    """Return a few sentences about the rotation of one layer.

    Without a layer where layers differ, they are about the layers that rotate.
    """
    if resolved.rope is None:
        return _without_rotation(resolved)
    sentences = _rotation(resolved.rope, resolved, resolved.lengths)
    return _join([*sentences, _gain_and_layers(resolved.rope, _layers(resolved))])


def model_summary(kinds: Sequence[LayerKind]) -> str:
    """Return the sentences about all layers of a model, a line for each kind of layers."""
    total = sum(len(kind.layers) for kind in kinds)
    if len(kinds) == 1:
        resolved = kinds[0].resolved
        if resolved.rope is None or not total:
            return summary(resolved)
        sentences = _rotation(resolved.rope, resolved, resolved.lengths)
        is_one_type = len(resolved.layers) == 1
        layers = _alike(total) if is_one_type else f"all {total} layers rotate alike"
        return _join([*sentences, _gain_and_layers(resolved.rope, layers)])
    if all(kind.resolved.rope is None for kind in kinds):
        first = next((k for k in kinds if k.resolved.attends), kinds[0])
        return _no_layer(first.resolved)
    return "\n".join(_line(kind, total) for kind in kinds)


def number(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits; spaces separate thousands."""
    rounded = float(f"{value:.{digits}g}")
    if rounded and not 1e-4 <= abs(rounded) < 1e15:
        return f"{value:.{digits}g}"
    text = f"{rounded:,.{digits}f}".rstrip("0").rstrip(".")
    return text.replace(",", " ")


def _line(kind: LayerKind, total: int) -> str:
    """Return the sentences about one kind of several."""
    resolved = kind.resolved
    types = {
        group.layer_type
        for group in resolved.layers
        if group.layer_type and not {*group.layers}.isdisjoint(kind.layers)
    }
    named = f" ({', '.join(sorted(types))})" if types else ""
    layers = f"{len(kind.layers)} of {total} layers{named}"
    if resolved.rope is None:
        return f"{layers} do not rotate ({resolved.nope})."
    sentences = _rotation(resolved.rope, resolved, resolved.lengths)
    return f"{layers}: {_join([*sentences, _gain_and_layers(resolved.rope, '')])}"


def _without_rotation(resolved: Resolved) -> str:
    others = [group for group in resolved.layers if group.nope is None]
    if resolved.layers and not others:
        return _no_layer(resolved)
    return f"This layer does not rotate ({resolved.nope})."


def _no_layer(resolved: Resolved) -> str:
    return f"No layer rotates ({resolved.nope})."


def _layers(resolved: Resolved) -> str:
    """Return what is known of the other layers; "" if that is nothing."""
    groups = resolved.layers
    total = sum(len(group.layers) for group in groups)
    rotating = [group for group in groups if group.nope is None]
    if not rotating or not {*PER_LAYER_KEYS}.isdisjoint(resolved.keys_read):
        return ""
    if len(groups) == 1:
        return _alike(total)
    if not resolved.differ:
        mine = [group for group in rotating if group.layer_type == resolved.layer_type]
        count = sum(len(group.layers) for group in mine)
        kind = "" if resolved.layer_type is None else f" ({resolved.layer_type})"
        return f"{count} of {total} layers are like this{kind}" if count else ""
    count = sum(len(group.layers) for group in rotating)
    if count == total:
        return f"all {total} layers rotate alike" if total > 1 else ""
    return f"{count} of {total} layers rotate in this way, the others do not rotate"


def _alike(total: int) -> str:
    return f"all {total} layers are alike" if total > 1 else "there is one layer"


def _rotation(rope: RopeConfig, resolved: Resolved, lengths: Lengths) -> Iterator[str]:
    """Return the sentences about the channels, the axes and the frequencies."""
    yield _turning(rope, resolved)
    yield _axes(rope)
    yield _length_clause(_scaling(rope), rope, lengths)
    yield _dependence(rope)
    yield _oddities(rope)


def _turning(rope: RopeConfig, resolved: Resolved) -> str:
    """Say how many pairs turn, and in which channels."""
    turning = int((exact_frequencies(rope) != 0).sum())
    pairs = f"{turning} pairs turn" if turning != 1 else "1 pair turns"
    fixed = ""
    if turning < rope.half and rope.learned != "frequencies":
        pairs = f"{turning} of {rope.half} pairs turn"
        fixed = f"; the other {rope.half - turning} have frequency 0"
    elif rope.learned == "frequencies":
        pairs = f"{rope.half} pairs turn"
    kept = rope.head_dim - rope.rotary_dim
    if not kept:
        if "qk_rope_head_dim" in resolved.provenance:  # the rest of an MLA head is not in head_dim
            part = f"the part of each head that rotates, {rope.head_dim} channels wide"
            return f"{pairs} in {part}{fixed}"
        return f"{pairs} in each head of {rope.head_dim}{fixed}"
    first = kept if rope.trailing else 0
    channels = f"channels {first} to {first + rope.rotary_dim - 1}"
    others = (
        f"; the other {kept} channels do not turn" if kept > 1 else "; one channel does not turn"
    )
    return f"{pairs} in each head of {rope.head_dim}, in {channels}{fixed}{others}"


def _axes(rope: RopeConfig) -> str:
    """Say which axis of a position turns how many pairs; "" if there is one axis."""
    if rope.num_axes == 1:
        return ""
    axes = pair_axis(rope)[exact_frequencies(rope) != 0].tolist()
    start = f"A position has {rope.num_axes} numbers"
    if rope.axes == "xdrope":
        return f"{start}: the channels of a pair can turn by different ones"
    if SEVERAL_AXES in axes or rope.learned == "frequencies":
        return f"{start}: each angle depends on more than one"
    counts = [f"{axes.count(axis)} by {name}" for axis, name in enumerate(axis_names(rope))]
    return f"{start}: {_and(counts).replace(' by', ' pairs turn by', 1)}"


def _scaling(rope: RopeConfig) -> str:
    """Say what the variant does to the frequencies."""
    if rope.learned == "frequencies":
        return "The frequencies are weights of the model: each call must contain them"
    if rope.rope_type == "inv_freq":
        return "The frequencies are given one by one"
    base = f"base {number(rope.theta, 7)}"
    counts = scaling(rope)
    turning = divisors(rope)
    turning = turning[~turning.isnan()]
    if counts.kept == len(turning):
        named = "" if rope.axes in WITHOUT_BASE else f" ({base})"
        return f"No frequency is scaled{named}"
    if counts.divided == len(turning):
        return f"All frequencies are divided by {number(counts.factor)} ({base})"
    cause = rope.rope_type if rope.rope_type != "default" else rope.axes
    if rope.rope_type == "longrope":
        cause = "long_factor" if not rope.needs_length and _is_long(rope) else "short_factor"
    if rope.rope_type in BANDS:
        parts = [_count(counts.kept, "keep their frequency", "keeps its frequency")]
        parts += [_count(counts.blended, "are blended", "is blended")] if counts.blended else []
        divided = f"divided by {number(counts.factor)}"
        parts += [_count(counts.divided, f"are {divided}", f"is {divided}")]
        return ", ".join(parts)
    scaled = turning[(turning - 1).abs() > 1e-6]
    low, high = number(float(scaled.min())), number(float(scaled.max()))
    by = f"by {low}" if low == high else f"by {low} to {high}"
    parts = [_count(counts.kept, "keep their frequency", "keeps its frequency")]
    parts = parts if counts.kept else []
    if parts:
        parts.append(_count(len(scaled), f"are divided {by}", f"is divided {by}"))
    else:
        parts = [f"All frequencies are divided {by}"]
    return f"{', '.join(parts)} ({cause}, {base})"


def _length_clause(sentence: str, rope: RopeConfig, lengths: Lengths) -> str:
    """Add the trained and the allowed length to the sentence about the frequencies."""
    trained, allowed = lengths.trained, lengths.allowed
    stated = ORIGINAL in dict(rope.parameters) or trained != allowed
    if trained is None and allowed is None:
        return sentence
    if allowed is None:
        return f"{sentence}: the model is trained on {_positions(trained)}"
    if not stated:
        return f"{sentence}: the model is allowed {_positions(allowed)}"
    start = f"{sentence}: trained on {_positions(trained)}"
    if trained == allowed:
        factor = scaling(rope).factor
        same = f"{start}, and the model is allowed the same number"
        if factor <= 1:
            return same
        return (
            f"{same}, although a factor of {number(factor)} reaches {number(factor * allowed, 12)}"
        )
    return f"{start}, the model is allowed {number(allowed, 12)}"


def _dependence(rope: RopeConfig) -> str:
    """Say what changes with the length of a call; "" if nothing does."""
    dependence = rope.length_dependence
    if dependence is None or rope.rope_type == "xpos":
        return ""
    if not rope.needs_length:
        return f"These frequencies are for calls of {_fixed_length(rope, dependence.above)}"
    start = f"In calls of more than {_positions(dependence.above)}"
    if rope.rope_type == "dynamic":
        return f"{start} the base grows with the length"
    if rope.rope_type == "dynamic_alpha":
        return f"{start} the base grows, and again each time the length doubles"
    if (long_rope := _for_long_calls(rope)) is None:
        return f"Calls of more than {_positions(dependence.above)} are refused"
    long = divisors(long_rope)
    low, high = number(float(long.min())), number(float(long.max()))
    return f"{start} all frequencies are divided by {low} to {high} (long_factor)"


def _for_long_calls(rope: RopeConfig) -> RopeConfig | None:
    """Return a rope for calls above the trained length; None if it has no valid parameters."""
    if rope.length_dependence is None or not rope.needs_length:
        return None
    try:
        return rope.for_length(rope.length_dependence.above + 1)
    except ConfigError:
        return None


def _fixed_length(rope: RopeConfig, above: int) -> str:
    """Return which calls have the frequencies of the fixed length."""
    length = _length(rope)
    if length <= above:
        return f"up to {_positions(above)}"
    if rope.rope_type == "longrope":
        return f"more than {_positions(above)}"
    if rope.rope_type == "dynamic_alpha":
        longest = above * 2 ** doublings(above, length)
        return f"more than {number(longest / 2, 12)} and up to {_positions(longest)}"
    return _positions(length)


def _is_long(rope: RopeConfig) -> bool:
    dependence = rope.length_dependence
    return dependence is not None and _length(rope) > dependence.above


def _length(rope: RopeConfig) -> int:
    length = dict(rope.parameters)["length"]
    assert isinstance(length, int)
    return length


def _oddities(rope: RopeConfig) -> str:
    """Say what else a reader would not expect."""
    found = []
    if rope.axes == "interpolated":
        found.append("positions are divided before the rotation")
    if rope.negative:
        found.append("all pairs turn backwards: angles are negative")
    if not rope.is_rotation:
        found.append("this is no rotation: the two channels of a pair have different angles")
    if rope.learned == "log_scale":
        found.append("each call must contain a factor for each frequency")
    if rope.rope_type == "xpos":
        found.append("the scale of q and k also depends on the position")
    if rope.values != "kept":
        back = ", and the output is rotated back" if rope.values == "and_back" else ""
        found.append(f"values are rotated as keys are{back}")
    return _capital("; ".join(found))


def _gain_and_layers(rope: RopeConfig, layers: str) -> str:
    gain = rope.attention_scaling
    text = "no gain" if gain == 1 else f"a gain of {number(gain)}"
    long = _for_long_calls(rope) if rope.rope_type == "longrope" else None
    if long is not None and long.attention_scaling != gain:
        text += f", and in longer calls a gain of {number(long.attention_scaling)}"
    return f"cos and sin have {text}{'; ' if layers else ''}{layers}"


def _count(count: int, plural: str, singular: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _positions(length: object) -> str:
    assert isinstance(length, int)
    return "1 position" if length == 1 else f"{number(length, 12)} positions"


def _and(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(sentences: Sequence[str]) -> str:
    return " ".join(f"{sentence}." for sentence in sentences if sentence)
