"""Readers of answers: from a message, a response or a failure to what a method returns."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from rope_client.answers import (
    AngleDifference,
    Attended,
    Built,
    Comparison,
    Diagnosis,
    Difference,
    Explanation,
    Measured,
    NamedMistake,
    ParameterDifference,
    Resolved,
    Rotated,
    Shifted,
    Table,
    WorstElement,
)
from rope_client.call import Response
from rope_client.errors import ConnectionFailed, Overloaded, RopeClientError, TimedOut
from rope_client.wire.message import Message

T = TypeVar("T")


def members(response: Response) -> dict[str, Any]:
    return dict(json.loads(response.content))


def _warnings(message: Message) -> tuple[str, ...]:
    return tuple(map(str, message.params.get("warnings", ())))


def _lengths(message: Message, *names: str) -> dict[str, Any]:
    """Return the lengths of an answer, and what decided each, by the names of the answer."""
    keys = [key for name in names for key in (name, f"{name}_source")]
    return {key: message.params.get(key) for key in keys}


def not_ready(failure: RopeClientError) -> bool:
    if isinstance(failure, Overloaded | ConnectionFailed | TimedOut):
        return False
    raise failure


def rotated(message: Message) -> Rotated:
    if message.tensors.keys().isdisjoint(("q", "k")):
        raise KeyError("q or k")
    q, k = message.tensors.get("q"), message.tensors.get("k")
    return Rotated(q, k, _warnings(message), **_lengths(message, "length"))


def attended(message: Message) -> Attended:
    out, lse = message.tensors["out"], message.tensors.get("lse")
    return Attended(out, lse, _warnings(message), **_lengths(message, "length"))


def table(message: Message) -> Table:
    tensors, scaling = message.tensors, float(message.params["attention_scaling"])
    cos, sin, scale = tensors["cos"], tensors["sin"], tensors.get("scale")
    return Table(cos, sin, scaling, scale, _warnings(message), **_lengths(message, "length"))


def shifted(message: Message) -> Shifted:
    lengths = _lengths(message, "length", "to_length")
    return Shifted(message.tensors["k"], _warnings(message), **lengths)


def resolved(message: Message) -> Resolved:
    facts = {name: fact for name, fact in message.params.items() if name != "warnings"}
    if "rotates" not in facts:
        raise KeyError("rotates")
    return Resolved(
        message.tensors.get("inv_freq"),
        facts,
        _warnings(message),
        inv_freq_unscaled=message.tensors.get("inv_freq_unscaled"),
        pairs=message.tensors.get("pairs"),
        pair_axis=message.tensors.get("pair_axis"),
    )


def built(message: Message) -> Built:
    return Built(message.tensors.get("positions"), message.tensors, _warnings(message))


def diagnosis(message: Message) -> Diagnosis:
    params, tensors = message.params, message.tensors
    measured = params["measured"]
    return Diagnosis(
        verdict=params["verdict"],
        error=_difference(params["error"]),
        explanations=tuple(map(_explanation, params["explanations"])),
        measured=None if measured is None else _of(Measured, measured, "unresolved_pairs"),
        next_probe=params["next_probe"],
        expected=tensors.get("expected"),
        error_by_pair=tensors.get("error_by_pair"),
        error_by_position=tensors.get("error_by_position"),
        inv_freq=tensors.get("inv_freq"),
        inv_freq_expected=tensors.get("inv_freq_expected"),
        warnings=_warnings(message),
    )


def comparison(message: Message) -> Comparison:
    params, tensors = message.params, message.tensors
    return Comparison(
        summary=params["summary"],
        same=params["same"],
        differences=tuple(_of(ParameterDifference, each) for each in params["differences"]),
        angles=tuple(_of(AngleDifference, each) for each in params["angles"]),
        first_position=params["first_position"],
        permutation=_indices(params.get("permutation")),
        inv_freq=tensors.get("inv_freq"),
        inv_freq_other=tensors.get("inv_freq_other"),
        warnings=_warnings(message),
    )


def _indices(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def _difference(values: Mapping[str, Any]) -> Difference:
    worst = values["worst"]
    element = None if worst is None else _of(WorstElement, worst, "index")
    return _of(Difference, {**values, "worst": element})


def _explanation(values: Mapping[str, Any]) -> Explanation:
    mistakes = tuple(_of(NamedMistake, each) for each in values["mistakes"])
    return _of(Explanation, {**values, "mistakes": mistakes})


def _of(kind: type[T], values: Mapping[str, Any], *lists: str) -> T:
    """Return a dataclass of the members of an object; those of `lists` become tuples.

    Members that this version does not know are left out.
    """
    known = {each.name: values[each.name] for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{**known, **{name: tuple(known[name]) for name in lists}})
