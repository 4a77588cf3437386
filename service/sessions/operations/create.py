"""Create a session from a configuration, with keys and values if the request has some."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rope_core.kvcache.cache import KVCache
from service.errors import UnknownName
from service.inference.handler import RequestContext
from service.sessions.creation.configuration import Configuration, configure, with_sinks
from service.sessions.creation.session_params import CompactParams, ModelParams, read_session_params
from service.sessions.lifetime.documents import document
from service.sessions.lifetime.quotas import check_max_tokens, check_rows
from service.sessions.lifetime.session import Session, SessionOptions
from service.sessions.operations import tokens
from service.sessions.operations.token_request import APPEND
from service.sessions.paths import PREFIX
from service.sessions.running.answer import SessionAnswer, message_of
from service.sessions.running.call import SessionCall, SessionServices
from service.wire import Message

_SINKS = re.compile(r"sinks\.([0-9]{1,4})")

_OF_APPEND = ("layer", "layers")
"""Parameters that belong to the keys and values of a create."""


async def run(
    services: SessionServices, message: Message, context: RequestContext
) -> tuple[SessionAnswer, Session]:
    """Create a session; return the answer and the session.

    Raises:
        SessionError, ServiceError, RopeError: there is no new session.
    """
    tensors, sinks = _split_tensors(message.tensors)
    values = dict(message.params.values)
    of_append: dict[str, Any] = {}
    if tensors:
        is_compact = not values.keys() & {"groups", "preset", "config"}
        names = _OF_APPEND[:1] if is_compact else _OF_APPEND
        of_append = {name: values.pop(name) for name in names if name in values}
    params = read_session_params(values)
    resolver = services.inference.rope_resolver
    if isinstance(params, ModelParams):
        configuration: Configuration = await services.inference.to_thread(
            context.deadline, configure, params, resolver
        )
    else:
        configuration = configure(params, resolver)
    for index, each in sinks.items():
        configuration = with_sinks(configuration, index, each)
    batch, max_tokens = check_rows(params.batch), params.max_tokens
    check_max_tokens(max_tokens)
    if isinstance(params, CompactParams) and tensors and "layer" not in of_append:
        of_append |= _all_layers(configuration, tensors)
    arena = await services.get_arena(context)
    options = SessionOptions(
        ttl_s=params.ttl_s,
        max_age_s=params.max_age_s,
        is_evictable=params.evictable,
        name=params.name,
        labels=params.labels,
    )

    def make_cache() -> KVCache:
        owner = context.tenant.name
        return KVCache(configuration.config, arena, batch, max_tokens, owner=owner)

    session = await services.offload.with_room(
        lambda: services.registry.create(
            context.tenant, make_cache, configuration.document, options
        ),
        context,
    )
    if tensors:
        try:
            of_session = replace(message_of(of_append), tensors=tensors)
            await tokens.run(SessionCall(services, session, of_session, context, 1), APPEND)
        except BaseException:
            services.registry.undo_create([session])
            raise
    return answer_of(services, session, configuration.warnings), session


def answer_of(
    services: SessionServices, session: Session, warnings: tuple[str, ...] = ()
) -> SessionAnswer:
    """Return the answer with the document of a new session."""
    now = services.registry.clock()
    values = document(session, now)
    if warnings:
        values["warnings"] = [*warnings]
    headers = {
        "Location": PREFIX + session.id.text,
        "X-Session-Expires-In": str(int(session.expires_in_s(now))),
    }
    return SessionAnswer(message_of(values), 201, headers, is_document=True)


def _split_tensors(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the tensors of an append, and the sinks by group."""
    of_append: dict[str, Tensor] = {}
    sinks: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _SINKS.fullmatch(name):
            sinks[int(match[1])] = tensor
        elif name in APPEND.tensors:
            of_append[name] = tensor
        else:
            raise UnknownName("tensor", name, [*APPEND.tensors, "sinks.0"])
    return of_append, sinks


def _all_layers(configuration: Configuration, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the parameter `layers` for tensors that have an axis of layers; else nothing."""
    num_axes = tensors["k"].ndim if "k" in tensors else 0
    if num_axes != (5 if "cu_seqlens" not in tensors else 4):
        return {}
    return {"layers": [*range(configuration.config.num_layers)]}
