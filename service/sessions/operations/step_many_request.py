"""Read the message of a step of many sessions, without the state of the sessions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core import ConfigError, ShapeError
from service.sessions.operations.token_request import read_out_dtype
from service.sessions.requests.parameters import check_names, flag, whole, whole_list
from service.sessions.requests.tensors import read_row_lengths
from service.sessions.running.call import SessionServices
from service.wire import Message

REQUIRED = ("q", "k", "v", "cu_seqlens")
TENSORS = (*REQUIRED, "positions")
PARAMS = (
    *("sessions", "layer", "layers", "expected_lengths", "expected_generations"),
    *("return_lse", "out_dtype", "backend"),
)

MAX_SESSIONS = 1024
"""Most sessions of one request."""


class Packed(NamedTuple):
    """A checked message: tokens of all sessions, one after the other."""

    session_ids: list[str]
    layers: list[int | None]
    """Of each session; None: of the only one."""
    expected_lengths: list[int | None]
    expected_generations: list[int | None]
    return_lse: bool
    out_dtype: torch.dtype | None
    backend: str | None
    tensors: Mapping[str, Tensor]
    row_lengths: list[int]
    """Tokens of each row of all sessions."""


def read_packed_request(message: Message, services: SessionServices) -> Packed:
    """Return the request of a message.

    Raises:
        UnknownName, MissingTensor, ConfigError, ShapeError: the message does not fit.
    """
    values = check_names(message, PARAMS, TENSORS, REQUIRED)
    ids = values.get("sessions")
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise ConfigError("sessions", "a list of ids", type(ids).__name__)
    if len(ids) > MAX_SESSIONS:
        raise ConfigError("sessions", f"at most {MAX_SESSIONS} ids", len(ids))
    if len(set(ids)) < len(ids):
        raise ConfigError("sessions", "a list in which each session is once", "one twice")
    q = message.tensors["q"]
    for name in ("q", "k", "v"):
        x = message.tensors[name]
        if x.ndim != 3 or x.shape[0] != q.shape[0]:
            raise ShapeError(name, "[tokens, heads, width], as many tokens as q", [*x.shape])
    positions = message.tensors.get("positions")
    if positions is not None and (not positions.ndim or positions.shape[-1] != q.shape[0]):
        raise ShapeError(
            "positions", "[tokens], as many as q, or [axes, tokens]", [*positions.shape]
        )
    layers: list[int | None] = [whole(values, "layer", None)] * len(ids)
    if "layers" in values:
        if "layer" in values:
            raise ConfigError("layer", "absent if layers is given", values["layer"])
        layers = whole_list(values, "layers")
        if len(layers) != len(ids):
            raise ConfigError("layers", f"a list of {len(ids)}, one a session", len(layers))
    return Packed(
        ids,
        layers,
        _numbers_or_null(values, "expected_lengths", len(ids)),
        _numbers_or_null(values, "expected_generations", len(ids)),
        flag(values, "return_lse"),
        read_out_dtype(values),
        services.choose_backend(values.get("backend")),
        message.tensors,
        read_row_lengths(message.tensors["cu_seqlens"], q.shape[0]),
    )


def _numbers_or_null(values: Mapping[str, Any], name: str, count: int) -> list[int | None]:
    """Return a number or None for each session."""
    numbers = values.get(name)
    if numbers is None:
        return [None] * count
    if not isinstance(numbers, list) or len(numbers) != count:
        expected = f"a list of {count} numbers, or null where there is no guard"
        raise ConfigError(name, expected, type(numbers).__name__)
    return [whole({name: number}, name, None) for number in numbers]
