"""Compare two ropes: which parameters differ, and from which position on that can be seen."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rope_core.comparison.first_position import (
    LAST_POSITION,
    first_position,
    frequencies_at,
    has_frequencies,
)
from rope_core.comparison.parameter_differences import (
    FIELDS,
    ParameterDifference,
    parameter_differences,
)
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import Resolved
from rope_core.own_frequencies import listed_rotary_dim
from rope_core.pairs import channel_pairs, pair_axis
from rope_core.scaling import exact_frequencies
from rope_core.sources import OBJECT_FORMS, RopeSource, is_of_model, resolve, without_model

EQUAL = 1e-9
"""Largest difference of frequencies, absolute and relative, that are the same."""

MAX_NAMED = 4
"""Most parameters that the summary names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleDifference:
    """How far the angles of two ropes are apart at a position."""

    position: int
    largest: float
    """In radians, over the pairs that both ropes have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two ropes.

    If frequencies depend on the length of a call, those at a position are the frequencies of the
    shortest call that has the position. On several axes a position is the same number on each.
    """

    differences: tuple[ParameterDifference, ...]

    angles: tuple[AngleDifference, ...]
    """At position 1, the trained length and max_position_embeddings, as far as they are known."""

    first_position: int | None
    """The least position up to 2^24 at which a cosine, without the gain, differs by more than
    1e-3; None: none."""

    summary: str
    """One sentence."""

    same: bool
    """Whether both rotate each token alike, but for rounding."""

    permutation: tuple[int, ...] | None = None
    """If only the order of channels differs: p with rotate(x[..., p], other) =
    rotate(x, rope)[..., p]; None otherwise."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """`inv_freq` and `inv_freq_other`; without that of a layer that does not rotate."""


def compare(rope: RopeSource | None, other: RopeSource | None) -> Comparison:
    """Say where two ropes differ. None is a rope that does not rotate.

    Of different widths the leading pairs that both have are compared. Parameters without a width
    have that of the other rope.

    Raises:
        ConfigError: one of the two is no rope; `other` is named in the error of the second.
    """
    width = None
    if _has_no_width(rope) and not _has_no_width(other):
        width = _width(_resolve_other(other, None))
    first = without_model(None) if rope is None else resolve(rope, head_dim=width)
    width = _width(first) if _has_no_width(other) else None
    return _compare(first, _resolve_other(other, width))


def _has_no_width(rope: RopeSource | None) -> bool:
    """Tell whether a rope has parameters that apply to heads of any width."""
    if not isinstance(rope, Mapping) or is_of_model(rope) or not {*OBJECT_FORMS}.isdisjoint(rope):
        return False
    return rope.get("head_dim") is None and listed_rotary_dim(rope) is None


def _width(resolved: Resolved) -> int | None:
    return None if resolved.rope is None else resolved.rope.head_dim


def _resolve_other(other: RopeSource | None, head_dim: int | None) -> Resolved:
    try:
        return without_model(None) if other is None else resolve(other, head_dim=head_dim)
    except ConfigError as error:
        if error.parameter == "rope":
            raise ConfigError("other", error.expected, error.got) from None
        raise error.nested_in("other") from None


def _compare(first: Resolved, second: Resolved) -> Comparison:
    a, b = first.rope, second.rope
    differences = parameter_differences(first, second)
    position = None if a == b else first_position(a, b)
    others = () if a == b or a is None or b is None else tuple(_other_differences(a, b))
    same = position is None and not others and (a is None) == (b is None)
    lengths = {
        length
        for lengths in (first.lengths, second.lengths)
        for length in (lengths.trained, lengths.allowed)
        if length is not None
    }
    return Comparison(
        differences=differences,
        angles=tuple(_angles(a, b, position) for position in sorted({1, *lengths})),
        first_position=position,
        summary=_summary(first, second, differences, position, others),
        same=same,
        permutation=None if same or position is not None else _permutation(a, b, others),
        tensors={
            name: rope.inv_freq
            for name, rope in (("inv_freq", a), ("inv_freq_other", b))
            if rope is not None
        },
    )


def _angles(rope: RopeConfig | None, other: RopeConfig | None, position: int) -> AngleDifference:
    if rope == other or not has_frequencies(rope, other):
        return AngleDifference(position=position, largest=0.0)
    a, b = frequencies_at(rope, other, position)
    return AngleDifference(position=position, largest=position * float((a - b).abs().max()))


def _other_differences(a: RopeConfig, b: RopeConfig) -> Iterator[str]:
    """Say what differs in the rotation of two ropes other than the size of their angles."""
    if a.head_dim != b.head_dim:
        yield f"heads have {a.head_dim} and {b.head_dim} channels"
    if a.half != b.half:
        yield f"of {a.half} and {b.half} pairs the first {min(a.half, b.half)} are compared"
    elif _partners(a) != _partners(b):
        is_moved = channel_pairs(a).equal(channel_pairs(b))
        how = "channels are written in another order" if is_moved else "other channels are paired"
        yield f"{how} ({_layout(a)} and {_layout(b)})"
    elif a.learned == b.learned and _axes(a) != _axes(b):
        tables = (a.frequency_table, b.frequency_table)
        hidden = ", which text does not show" if all(t.broadcasts_axes for t in tables) else ""
        yield f"pairs turn by other axes of a position{hidden}"
    if a.learned != b.learned:
        yield "frequencies of one are weights of the model"
    elif a.learned != "frequencies" and _is_opposite(a, b):
        yield "they turn in opposite directions"
    if not math.isclose(a.attention_scaling, b.attention_scaling, rel_tol=1e-6):
        yield f"cos and sin have gains of {a.attention_scaling:.4g} and {b.attention_scaling:.4g}"
    if _scale(a) != _scale(b):
        yield "the scale of xPos differs"
    if a.values != b.values:
        yield f"values turn otherwise ({a.values} and {b.values})"


def _partners(rope: RopeConfig) -> tuple[list[list[int]], bool, bool]:
    """Return which channels are read and written as pairs, and by which angles."""
    is_moved = rope.layout == "interleaved_to_half" and rope.rotary_dim // rope.blocks > 2
    is_tiled = rope.layout == "interleaved_tiled" and rope.rotary_dim // rope.blocks > 2
    return channel_pairs(rope).tolist(), is_moved, is_tiled


def _permutation(
    a: RopeConfig | None, b: RopeConfig | None, others: Sequence[str]
) -> tuple[int, ...] | None:
    """Return the order of channels in which `a` reads and writes what `b` does.

    None if something else differs as well, or if a rope writes channels elsewhere than it reads.
    """
    if a is None or b is None or len(others) != 1 or a.head_dim != b.head_dim:
        return None
    (pairs, *moved), (other_pairs, *other_moved) = _partners(a), _partners(b)
    if any((*moved, *other_moved)) or len(pairs) != len(other_pairs) or pairs == other_pairs:
        return None
    if _axes(a) != _axes(b):
        return None
    places = {
        to: of
        for own, other in zip(pairs, other_pairs, strict=True)
        for of, to in zip(own, other, strict=True)
    }
    rest = iter(sorted({*range(a.head_dim)} - {*places.values()}))
    return tuple(places[i] if i in places else next(rest) for i in range(a.head_dim))


def _layout(rope: RopeConfig) -> str:
    where = ", trailing" if rope.trailing and rope.rotary_dim < rope.head_dim else ""
    return rope.layout + where + (f", {rope.blocks} blocks" if rope.blocks > 1 else "")


def _axes(rope: RopeConfig) -> object:
    """Return the axis of each angle, and how many numbers a position has."""
    table = rope.frequency_table
    axis = pair_axis(rope) if table.axis is None else table.axis
    return table.num_axes, table.coupled, axis.tolist()


def _is_opposite(a: RopeConfig, b: RopeConfig) -> bool:
    """Tell whether cosines agree and sines do not."""
    pairs = min(a.half, b.half)
    first, second = exact_frequencies(a)[:pairs], exact_frequencies(b)[:pairs]
    limit = EQUAL * (1 + first.abs())
    return bool((((first - second).abs() > limit) & ((first + second).abs() <= limit)).any())


def _scale(rope: RopeConfig) -> object:
    return rope.parameters if rope.rope_type == "xpos" else None


def _summary(
    first: Resolved,
    second: Resolved,
    differences: Sequence[ParameterDifference],
    position: int | None,
    others: Sequence[str],
) -> str:
    a, b = first.rope, second.rope
    if a is None and b is None:
        return "The same: neither rotates."
    if a is None or b is None:
        start = f"Only the {'second' if a is None else 'first'} rotates"
        return (
            f"{start}{'' if position is None else f': they differ from position {position:,} on'}."
        )
    names = [difference.parameter for difference in differences]
    if position is None and not others:
        if not names:
            return "The same at every position."
        if {*names} <= {"arithmetic", "rounding"}:
            return f"The same at every position, but for rounding ({_listed(names)} differ)."
        return f"The same rotation at every position, although they differ in {_listed(names)}."
    if not has_frequencies(a, b):
        start = "They differ"
    elif position is None:
        start = f"The cosines are the same up to position {LAST_POSITION:,}, but they differ"
    elif position == 1:
        start = "They differ from position 1 on"
    else:
        start = f"The {'cosines are the ' if others else ''}same until position {position:,}"
    clauses = list(others)
    if position is not None:
        of_a, of_b = frequencies_at(a, b, position)
        turning = int(((of_a - of_b).abs() > EQUAL * of_a.abs()).sum())
        causes = [name for name in names if name not in FIELDS]
        cause = f" ({_listed(causes)})" if causes else ""
        clauses.insert(0, f"{turning} of {len(of_a)} pairs turn otherwise{cause}")
    return f"{start}: {'; '.join(clauses)}."


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:MAX_NAMED], *(["others"] if len(names) > MAX_NAMED else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
