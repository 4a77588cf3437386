"""Readers of answers: from a message, a response or a failure to what a method returns."""

import json
from typing import Any

from rope_client.answers import Attended, Built, Resolved, Rotated, Shifted, Table
from rope_client.call import Response
from rope_client.errors import ConnectionFailed, Overloaded, RopeClientError, TimedOut
from rope_client.wire.message import Message


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
