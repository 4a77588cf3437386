"""Calls that create, list, describe, change and delete sessions. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack
from urllib.parse import urlencode

import numpy as np

from rope_client import readers
from rope_client.arrays import arrays_of
from rope_client.call import Call, Options, Response
from rope_client.rope import config_json, rope_json
from rope_client.sessions.document import SessionDocument, document_of
from rope_client.wire.message import Message

T = TypeVar("T")

CREATE_TENSORS = ("k", "v", "positions", "cu_seqlens")
"""Members of a configuration that are tensors: the first tokens of a layer."""


def create(
    *,
    preset: str | None = None,
    config: Any = None,
    dtype: Any = "float32",
    batch: int = 1,
    max_tokens: int | None = None,
    timeout_s: float | None = None,
    request_id: str | None = None,
    **configuration: Any,
) -> Call[SessionDocument]:
    """Create a session: a cache of keys and values in the service.

    Args:
        preset: name of a model: the session gets all its layers.
        config: or a model's config: a mapping, a config object of transformers, or a path.
        dtype: of q, k, v and out: a name, or a dtype of numpy, ml_dtypes or torch.
        batch: number of rows, each a sequence of its own length.
        max_tokens: longest a row may become; memory for it is reserved. None: memory is taken as
            the rows grow, and an append may find none left.
        timeout_s: deadline of the call.
        request_id: identifier in the service's log.
        configuration: all else: `groups`, or the members of one group (`layers`, `heads`,
            `kv_heads`, `head_dim`, `rope`, `attention`, `sinks`, ...); `kv_dtype`, `ttl_s`,
            `max_age_s`, `evictable`, `name`, `labels`; the first tokens `k`, `v` of `layer`.
    """
    params = {
        "preset": preset,
        "config": None if config is None else config_json("config", config),
        "max_tokens": max_tokens,
    }
    names = [name for name in configuration if name in CREATE_TENSORS or name.startswith("sinks.")]
    tensors = {name: configuration.pop(name) for name in names}
    if configuration.get("rope") is not None:
        configuration["rope"] = rope_json(configuration["rope"])
    arrays, warnings = arrays_of(tensors)
    set_params = {name: value for name, value in params.items() if value is not None}
    message = Message(
        arrays, {**set_params, "dtype": _name_of(dtype), "batch": batch, **configuration}
    )
    return _create_sessions(
        "/v1/sessions",
        message,
        lambda response: document_of(readers.members(response)),
        options_of(timeout_s, request_id),
        warnings=warnings,
        encoding=None if arrays else "json",
    )


def fork(
    session_id: str,
    count: int = 1,
    *,
    rows: Sequence[int] | None = None,
    length: int | Sequence[int] | None = None,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    ttl_s: float | None = None,
    strict: bool = False,
    **options: Unpack[Options],
) -> Call[list[SessionDocument]]:
    """Make sessions with the same tokens, which share memory until one of them changes.

    `count` is 64 at most. `rows` are those that the forks have, which may repeat, and `length`
    their tokens, up to those of the shortest layer. `name` is for one fork. `ttl_s` are the seconds
    without use after which they end. `strict` refuses if layers have different lengths.
    """
    params = {
        "count": count,
        "rows": rows,
        "length": length,
        "name": name,
        "labels": labels,
        "ttl_s": ttl_s,
        "strict": strict or None,
    }
    return _create_sessions(
        f"/v1/sessions/{session_id}/fork",
        Message({}, {name: value for name, value in params.items() if value is not None}),
        lambda response: list(map(document_of, readers.members(response)["sessions"])),
        options,
        session_id=session_id,
    )


def inspect(session_id: str, **options: Unpack[Options]) -> Call[SessionDocument]:
    """Read a session as it is now, also what others have changed; the lease is not renewed."""
    return Call(
        path=f"/v1/sessions/{session_id}",
        message=None,
        read=lambda response: document_of(readers.members(response)),
        options=options,
        is_idempotent=True,
        headers={"X-Session-Id": session_id},
    )


def update(
    session_id: str,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    ttl_s: float | None = None,
    pinned: bool | None = None,
    **options: Unpack[Options],
) -> Call[SessionDocument]:
    """Change the name, the labels, the lease or the pin of a session; renew its lease."""
    members = {"name": name, "labels": labels, "ttl_s": ttl_s, "pinned": pinned}
    changes = {name: value for name, value in members.items() if value is not None}
    return _patch(session_id, changes, options)


def touch(session_id: str, **options: Unpack[Options]) -> Call[SessionDocument]:
    """Renew the lease of a session."""
    return _patch(session_id, {}, options)


def freeze(session_id: str, **options: Unpack[Options]) -> Call[SessionDocument]:
    """Make a session a snapshot, which can be forked but not changed any more."""
    return _patch(session_id, {"frozen": True}, options)


def delete(session_id: str, **options: Unpack[Options]) -> Call[None]:
    """End a session and give its memory back; not an error if it has been deleted."""
    return Call(
        path=f"/v1/sessions/{session_id}",
        message=None,
        read=lambda _: None,
        options=options,
        is_idempotent=True,
        method="DELETE",
        headers={"X-Session-Id": session_id},
        answered_with=204,
    )


def page(
    label: str | Sequence[str], name: str | None, cursor: str | None, options: Options
) -> Call[tuple[list[SessionDocument], str | None]]:
    """Return a page of the list of sessions, and the cursor of the next page."""
    labels = [label] if isinstance(label, str) else label
    query = [*(("label", text) for text in labels), ("name", name), ("cursor", cursor)]
    text = urlencode([(key, value) for key, value in query if value is not None])

    def read(response: Response) -> tuple[list[SessionDocument], str | None]:
        members = readers.members(response)
        return list(map(document_of, members["sessions"])), members["next_cursor"]

    return Call(
        path=f"/v1/sessions?{text}" if text else "/v1/sessions",
        message=None,
        read=read,
        options=options,
        is_idempotent=True,
    )


def options_of(timeout_s: float | None, request_id: str | None) -> Options:
    """Return the options that are not None."""
    options: Options = {}
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    if request_id is not None:
        options["request_id"] = request_id
    return options


def _patch(session_id: str, members: Mapping[str, Any], options: Options) -> Call[SessionDocument]:
    return Call(
        path=f"/v1/sessions/{session_id}",
        message=Message({}, members),
        read=lambda response: document_of(readers.members(response)),
        options=options,
        is_idempotent=True,
        method="PATCH",
        headers={"X-Session-Id": session_id},
        encoding="json",
    )


def _create_sessions(
    path: str,
    message: Message,
    read: Callable[[Response], T],
    options: Options,
    *,
    session_id: str | None = None,
    warnings: tuple[str, ...] = (),
    encoding: Any = "json",
) -> Call[T]:
    """Return a call that creates sessions. If it is sent again, no further ones are created."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    if session_id is not None:
        headers["X-Session-Id"] = session_id
    return Call(
        path=path,
        message=message,
        read=read,
        options=options,
        is_idempotent=True,
        warnings=warnings,
        headers=headers,
        encoding=encoding,
        answered_with=201,
    )


def _name_of(dtype: Any) -> str:
    """Return the name of a dtype of numpy, ml_dtypes or torch."""
    text = str(dtype)
    return text.removeprefix("torch.") if text.startswith("torch.") else np.dtype(dtype).name
