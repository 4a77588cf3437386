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


def not_ready(failure: RopeClientError) -> bool:
    if isinstance(failure, Overloaded | ConnectionFailed | TimedOut):
        return False
    raise failure


def rotated(message: Message) -> Rotated:
    if message.tensors.keys().isdisjoint(("q", "k")):
        raise KeyError("q or k")
    return Rotated(message.tensors.get("q"), message.tensors.get("k"), _warnings(message))


def attended(message: Message) -> Attended:
    return Attended(message.tensors["out"], message.tensors.get("lse"), _warnings(message))


def table(message: Message) -> Table:
    tensors, scaling = message.tensors, float(message.params["attention_scaling"])
    return Table(tensors["cos"], tensors["sin"], scaling, tensors.get("scale"), _warnings(message))


def shifted(message: Message) -> Shifted:
    return Shifted(message.tensors["k"], _warnings(message))


def resolved(message: Message) -> Resolved:
    facts = {name: fact for name, fact in message.params.items() if name != "warnings"}
    if "rotates" not in facts:
        raise KeyError("rotates")
    return Resolved(message.tensors.get("inv_freq"), facts, _warnings(message))


def built(message: Message) -> Built:
    return Built(message.tensors.get("positions"), message.tensors, _warnings(message))
