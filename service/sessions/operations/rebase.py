"""Rebase: other frequencies for keys that are stored already."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rope_core import ConfigError, RopeConfig
from rope_core.kvcache.cache import Pending
from service.endpoints.rope_params import AnyRope
from service.errors import printable
from service.sessions.creation.layer_groups import check_rope, rope_document
from service.sessions.lifetime.documents import configuration_digest
from service.sessions.lifetime.session import Session
from service.sessions.operations.moves import Move, MoveOperation
from service.sessions.requests.parameters import flag, whole_list
from service.sessions.running.call import SessionServices

_ROPE: TypeAdapter[Any] = TypeAdapter(AnyRope)


def _read(values: Mapping[str, Any], session: Session, services: SessionServices) -> Move:
    groups = session.cache.config.groups
    rotating = [number for number, group in enumerate(groups) if group.rope is not None]
    numbers: list[int] = whole_list(values, "groups", rotating)
    for number in numbers:
        if number not in rotating:
            raise ConfigError("groups", f"numbers of groups that rotate, {rotating}", number)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError("groups", "a list in which each group is once", numbers[:8])
    copy = flag(values, "copy")
    to = _read_rope(values)
    ropes: list[RopeConfig] = []
    documents: dict[int, Any] = {}
    for number in numbers:
        head_dim = groups[number].head_dim
        resolved = services.inference.rope_resolver.resolve(to, head_dim, None, "to")
        check_rope(resolved, head_dim, "to")
        ropes.append(resolved.rope)
        documents[number] = rope_document(to, resolved, services.inference.rope_resolver, head_dim)

    def plan(session: Session) -> Pending:
        return session.cache.plan_rebase(numbers, ropes, copy=copy)

    def after(session: Session) -> None:
        configuration = dict(session.configuration)
        changed = [dict(group) for group in configuration["groups"]]
        for number, document in documents.items():
            changed[number]["rope"] = document
        session.configuration = {**configuration, "groups": changed}
        session.configuration_digest = configuration_digest(session.configuration)

    return Move(plan, after)


def _read_rope(values: Mapping[str, Any]) -> Any:
    if values.get("to") is None:
        raise ConfigError("to", "a rope: an object or the name of a preset", "none")
    try:
        return _ROPE.validate_python(values["to"])
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False)[0]
    names = [str(part) for part in first["loc"] if part not in ("parameters", "config", "preset")]
    expected = first["msg"].removeprefix("Input should be ")
    raise ConfigError(".".join(("to", *names)), expected, printable(repr(first["input"])))


REBASE = MoveOperation("rebase", ("to", "groups", "copy"), _read)
