"""Read the message of a step, an append or an attend, without the state of the session."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rope_core import ConfigError, ShapeError
from rope_core.kvcache.config import KVGroup
from service.errors import MissingTensor, printable
from service.sessions.requests.layout import Layout
from service.sessions.requests.parameters import (
    check_names,
    flag,
    rows_of,
    whole,
    whole_list,
    whole_or_list,
)
from service.sessions.requests.tensors import Tokens, read_tokens
from service.wire import Message

_OF_LAYER = ("layer", "layers", "rows")
_GUARD = ("expected_length", "expected_generation")
_OF_ANSWER = ("return_lse", "out_dtype", "backend")


@dataclass(frozen=True, slots=True)
class TokenOperation:
    """What one of the three operations takes and does."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    params: tuple[str, ...]
    appends: bool
    attends: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that it may have."""
        return (*self.required, *self.optional)


STEP = TokenOperation(
    required=("q", "k", "v"),
    optional=("positions", "tail_mask", "cu_seqlens"),
    params=(*_OF_LAYER, *_GUARD, *_OF_ANSWER),
    appends=True,
    attends=True,
)
APPEND = TokenOperation(
    required=("k", "v"),
    optional=("positions", "cu_seqlens"),
    params=(*_OF_LAYER, *_GUARD),
    appends=True,
    attends=False,
)
ATTEND = TokenOperation(
    required=("q",),
    optional=("positions", "q_index", "tail_mask", "cu_seqlens"),
    params=(*_OF_LAYER, *_OF_ANSWER),
    appends=False,
    attends=True,
)


class TokenRequest(NamedTuple):
    """A message of one of the operations, as far as it can be read without the session's state."""

    kind: TokenOperation
    layers: list[int]
    has_layers: bool
    """Whether tensors have an axis of layers."""
    group: KVGroup
    batch_key: str
    rows: list[int] | None
    expected_length: int | list[int] | None
    expected_generation: int | None
    return_lse: bool
    out_dtype: torch.dtype | None
    backend: str | None
    tokens: Tokens

    @property
    def answer_bytes(self) -> int:
        """Bytes of out and lse."""
        if self.tokens.q is None:
            return 0
        num_elements = sum(x.shape[0] * x.shape[1] for x in self.tokens.q)
        itemsize = (self.out_dtype or self.tokens.q[0].dtype).itemsize
        return num_elements * (self.group.value_dim * itemsize + 4 * self.return_lse)

    @property
    def appended_bytes(self) -> int:
        """Bytes of the new keys and values."""
        k, v = self.tokens.k, self.tokens.v
        if not self.kind.appends or k is None or v is None:
            return 0
        return len(k) * (k[0].nbytes + v[0].nbytes)


def read_request(
    message: Message,
    layout: Layout,
    dtype: torch.dtype,
    kind: TokenOperation,
    choose_backend: Callable[[object], str | None],
) -> TokenRequest:
    """Return what a message asks for.

    Raises:
        UnknownName, MissingTensor, ConfigError, ShapeError: the message does not fit.
    """
    values = check_names(message, kind.params, kind.tensors, kind.required)
    layers, has_layers = _layers_of(values, len(layout.groups))
    group = layout.group_of(layers)
    tokens = read_tokens(
        message.tensors,
        group,
        dtype,
        len(layers) if has_layers else None,
        layout.num_axes,
        layout.broadcasts_axes,
    )
    if kind.appends and kind.attends and not sum(tokens.num_tokens):
        raise ShapeError("q", "of at least one token: a step appends", "none")
    if tokens.q_index is not None and tokens.positions is None and group.rope is not None:
        raise MissingTensor("positions")
    return TokenRequest(
        kind,
        layers,
        has_layers,
        group,
        layout.batch_keys[layers[0]],
        rows_of(values),
        whole_or_list(values, "expected_length", None),
        whole(values, "expected_generation", None),
        flag(values, "return_lse"),
        read_out_dtype(values),
        choose_backend(values.get("backend")),
        tokens,
    )


def read_out_dtype(values: Mapping[str, Any]) -> torch.dtype | None:
    """Return the dtype of out; None: that of the session. Raises ConfigError."""
    name = values.get("out_dtype")
    if name not in (None, "float32"):
        raise ConfigError("out_dtype", "float32 or absent", printable(repr(name)))
    return None if name is None else torch.float32


def _layers_of(values: Mapping[str, Any], num_layers: int) -> tuple[list[int], bool]:
    """Return the layers of a call, and whether tensors have an axis of layers."""
    if "layers" in values:
        if "layer" in values:
            raise ConfigError("layer", "absent if layers is given", printable(values["layer"]))
        layers: list[int] = whole_list(values, "layers")
        if not layers:
            raise ConfigError("layers", "at least one layer", "none")
        return layers, True
    default = 0 if num_layers == 1 else None
    layer = whole(values, "layer", default)
    if layer is None:
        raise ConfigError("layer", f"given: the session has {num_layers} layers", "none")
    return [layer], False
