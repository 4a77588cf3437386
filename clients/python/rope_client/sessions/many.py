"""A step of many sessions in one request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Unpack

import numpy as np
import numpy.typing as npt

from rope_client.answers import Attended
from rope_client.arrays import array_of
from rope_client.call import Call, Options, Response, message_of
from rope_client.errors import RopeClientError
from rope_client.problems import failure_of_problem
from rope_client.sessions.state import SessionState
from rope_client.wire.message import Message

Array = npt.NDArray[Any]


class HasState(Protocol):
    """A session of any client."""

    @property
    def state(self) -> SessionState: ...


Step = tuple[HasState, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
"""A session, and q, k, v `[B, n, H, D]` of the new tokens of its rows."""


def step_many(
    steps: Sequence[Step],
    layer: int | Sequence[int] | None = None,
    *,
    return_lse: bool = False,
    out_dtype: str | None = None,
    backend: str | None = None,
    **options: Unpack[Options],
) -> Call[list[Attended | RopeClientError]]:
    """Step many sessions in one request: `(session, q, k, v)` each.

    The answer has for each of them what its own `step` would return, or the error that it would
    raise: one session that fails does not fail the others. A session may be there once. Behind a
    router, all sessions must be of one replica, that of the first one.

    Args:
        steps: sessions of one configuration, with q, k, v `[B, n, H, D]`.
        layer: layer of all sessions, or a list with the layer of each.
        return_lse: answer `lse` as well.
        out_dtype: dtype of `out`; None: that of q.
        backend: name of a backend; None: the best.
        options: `timeout_s`, `request_id`.
    """
    states = [session.state for session, *_ in steps]
    requested = layer if isinstance(layer, Sequence) else [layer] * len(steps)
    layers = [state.first_of(one) for state, one in zip(states, requested, strict=True)]
    tensors = [
        [array_of(name, value) for name, value in zip("qkv", values, strict=True)]
        for _, *values in steps
    ]
    shapes = [q.shape for q, _, _ in tensors]
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"q must be [B, n, H, D] in every step, got {shapes}")
    sizes = [size for rows, size, *_ in shapes for _ in range(rows)]
    packed = {
        name: np.concatenate([each[i].reshape(-1, *each[i].shape[2:]) for each in tensors])
        for i, name in enumerate("qkv")
    }
    guards = [state.layer_guard(at, None) for state, at in zip(states, layers, strict=True)]
    if not all(isinstance(guard["expected_length"], int) for guard in guards):
        raise ValueError("the rows of each session must have one length: step the others alone")
    params: dict[str, Any] = {
        "sessions": [state.id for state in states],
        "expected_lengths": [guard["expected_length"] for guard in guards],
        "expected_generations": [guard["expected_generation"] for guard in guards],
    }
    if isinstance(layer, Sequence):
        params["layers"] = layers
    elif layer is not None:
        params["layer"] = layer
    optional = {"return_lse": return_lse or None, "out_dtype": out_dtype, "backend": backend}
    params |= {name: value for name, value in optional.items() if value is not None}

    def read(response: Response) -> list[Attended | RopeClientError]:
        answer = message_of(response)
        stops = np.cumsum([rows * size for rows, size, *_ in shapes])[:-1]
        outs = np.split(answer.tensors["out"], stops)
        lses = np.split(answer.tensors["lse"], stops) if return_lse else [None] * len(outs)
        results = answer.params["results"]
        return [
            _outcome(*each)
            for each in zip(results, states, layers, shapes, outs, lses, strict=True)
        ]

    return Call(
        path="/v1/step",
        message=Message({**packed, "cu_seqlens": np.cumsum([0, *sizes])}, params),
        read=read,
        options=options,
        is_idempotent=True,
        headers={"X-Session-Id": states[0].id},  # for routers: they do not look into bodies
    )


def _outcome(
    result: dict[str, Any],
    state: SessionState,
    layer: int,
    shape: tuple[int, ...],
    out: Array,
    lse: Array | None,
) -> Attended | RopeClientError:
    status = result["status"]
    if status != 200:
        return failure_of_problem(result, status)
    state.lengths[layer] = list(result["length"])
    return Attended(
        out.reshape(*shape[:2], *out.shape[1:]),
        None if lse is None else lse.reshape(*shape[:2], *lse.shape[1:]),
    )
