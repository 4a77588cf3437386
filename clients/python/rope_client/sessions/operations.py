"""The operations of a session, for all transports. Pure: no network, no clock.

Arrays are numpy arrays, torch tensors, or what `numpy.asarray` accepts. Arguments that are None are
not sent. `rows` are indices of rows; None: all. A number for all rows, or a list with one for each.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, Unpack

import numpy.typing as npt

from rope_client.answers import Attended
from rope_client.arrays import arrays_of
from rope_client.call import Options
from rope_client.rope import Rope, rope_json
from rope_client.sessions.operation import Operation
from rope_client.sessions.state import Layers, SessionState
from rope_client.wire.message import Message

T = TypeVar("T")

PerRow = int | Sequence[int]
"""A number for all rows, or one for each."""


class HasId(Protocol):
    """A session of any client."""

    @property
    def id(self) -> str: ...


def step(
    state: SessionState,
    layer: Layers,
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    positions: npt.ArrayLike | None = None,
    tail_mask: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    rows: Sequence[int] | None = None,
    return_lse: bool = False,
    out_dtype: str | None = None,
    backend: str | None = None,
    **options: Unpack[Options],
) -> Operation[Attended]:
    """Append k and v `[B, n, Hkv, D]`, then attend with q `[B, n, H, D]`.

    `layer` may be a list, for independent layers: q, k, v then have an axis more in front.
    `tail_mask` is bool `[n, m]`: which of the last m tokens each query sees.
    """
    tensors = {"q": q, "k": k, "v": v, "positions": positions, "tail_mask": tail_mask}
    params = {
        **state.layer_guard(layer, rows),
        "rows": rows,
        "return_lse": return_lse or None,
        "out_dtype": out_dtype,
        "backend": backend,
    }

    def read(answer: Message) -> Attended:
        attended = _attended(answer)
        state.set_layer_lengths(layer, answer.params)
        return attended

    return _operation("step", state, {**tensors, "cu_seqlens": cu_seqlens}, params, read, options)


def append(
    state: SessionState,
    layer: Layers,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    positions: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    rows: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Append k and v `[B, n, Hkv, D]`, not rotated; return the length of each row of the layer.

    With a list as `layer`, the length is that of each row of the session.
    """
    tensors = {"k": k, "v": v, "positions": positions, "cu_seqlens": cu_seqlens}
    params = {**state.layer_guard(layer, rows), "rows": rows}

    def read(answer: Message) -> tuple[int, ...]:
        state.set_layer_lengths(layer, answer.params)
        return tuple(state.length if isinstance(layer, Sequence) else state.lengths[layer or 0])

    return _operation("append", state, tensors, params, read, options)


def attend(
    state: SessionState,
    layer: Layers,
    q: npt.ArrayLike,
    *,
    positions: npt.ArrayLike | None = None,
    q_index: npt.ArrayLike | None = None,
    tail_mask: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    rows: Sequence[int] | None = None,
    return_lse: bool = False,
    out_dtype: str | None = None,
    backend: str | None = None,
    **options: Unpack[Options],
) -> Operation[Attended]:
    """Attend with q `[B, n, H, D]`, the queries of the last n tokens; nothing is stored.

    `q_index` says which tokens the queries belong to, and needs `positions`.
    """
    tensors = {"q": q, "positions": positions, "q_index": q_index, "tail_mask": tail_mask}
    params = {
        "layer": None if isinstance(layer, Sequence) else layer,
        "layers": list(layer) if isinstance(layer, Sequence) else None,
        "rows": rows,
        "return_lse": return_lse or None,
        "out_dtype": out_dtype,
        "backend": backend,
    }
    tensors["cu_seqlens"] = cu_seqlens
    return _operation("attend", state, tensors, params, _attended, options)


def truncate(
    state: SessionState,
    length: PerRow | None = None,
    *,
    drop: int | None = None,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Forget the tokens behind `length`, or the last `drop` tokens, in all layers."""
    return _change(
        "truncate", state, {"length": length, "drop": drop}, state.set_all_lengths, options
    )


def select_tail(
    state: SessionState,
    n: int,
    kept: Sequence[int] | Sequence[Sequence[int]],
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Of the last n tokens keep those at the increasing offsets `kept`: the accepted path."""
    return _change("select_tail", state, {"n": n, "kept": kept}, state.set_all_lengths, options)


def evict(
    state: SessionState,
    start: PerRow | None = None,
    stop: PerRow | None = None,
    *,
    sinks: int | None = None,
    recent: int | None = None,
    rows: Sequence[int] | None = None,
    close: bool = True,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Remove the tokens from `start` to `stop`, or all but the first `sinks` and last `recent`.

    `close`: the later tokens move up, as if they had been appended without the removed ones.
    """
    params = {
        "start": start,
        "stop": stop,
        "sinks": sinks,
        "recent": recent,
        "rows": rows,
        "close": close,
    }
    return _change("evict", state, params, state.set_all_lengths, options)


def shift(
    state: SessionState,
    start: PerRow,
    stop: PerRow,
    delta: PerRow,
    *,
    rows: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Add `delta` (a number, or one for each axis) to the positions of tokens."""
    params = {"start": start, "stop": stop, "delta": delta, "rows": rows}
    return _change("shift", state, params, state.set_generation, options)


def rebase(
    state: SessionState,
    to: Rope,
    *,
    copy: bool | None = None,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Rewrite the keys for another rope; with `copy` also those that other sessions share."""
    return _change(
        "rebase", state, {"to": rope_json(to), "copy": copy}, state.set_generation, options
    )


def reorder(
    state: SessionState, rows: Sequence[int], **options: Unpack[Options]
) -> Operation[tuple[int, ...]]:
    """Make the rows those of the list, which may repeat."""
    return _change("reorder", state, {"rows": rows}, state.set_all_lengths, options)


def attach(
    state: SessionState,
    source: HasId | str,
    start: int,
    stop: int,
    *,
    position: PerRow | None = None,
    **options: Unpack[Options],
) -> Operation[tuple[int, ...]]:
    """Append tokens of another session, which share its memory.

    `source` is a session, its id or its name; `position` is that of the first token.
    """
    params = {
        "source": source if isinstance(source, str) else source.id,
        "start": start,
        "stop": stop,
        "position": position,
    }
    return _change("attach", state, params, state.set_all_lengths, options)


def _attended(answer: Message) -> Attended:
    tensors = answer.tensors
    warnings = answer.params.get("warnings", ())
    return Attended(tensors["out"], tensors.get("lse"), tuple(map(str, warnings)))


def _change(
    name: str,
    state: SessionState,
    params: Mapping[str, Any],
    update_state: Callable[[Mapping[str, Any]], None],
    options: Options,
) -> Operation[tuple[int, ...]]:
    """Return an operation on all layers, which the service recognises by a random id."""

    def read(answer: Message) -> tuple[int, ...]:
        update_state(answer.params)
        return tuple(state.length)

    guarded = {**params, **state.guard(), "op_id": uuid.uuid4().hex}
    return _operation(name, state, {}, guarded, read, options)


def _operation(
    name: str,
    state: SessionState,
    tensors: Mapping[str, npt.ArrayLike | None],
    params: Mapping[str, Any],
    read: Callable[[Message], T],
    options: Options,
) -> Operation[T]:
    arrays, warnings = arrays_of(tensors)
    return Operation(
        name=name,
        session_id=state.id,
        tensors=arrays,
        params={name: value for name, value in params.items() if value is not None},
        read=read,
        options=options,
        warnings=warnings,
    )
