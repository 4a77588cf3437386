"""The attention function of a model that uses a session as its cache."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rope_client.transformers.errors import UnsupportedModelCall
from rope_client.transformers.masks import SessionMask

NAME = "rope_session"
"""Of the attention function and of its masks."""

_WITHOUT_EFFECT = frozenset(
    {
        *("cache_position", "layer_idx", "logits_to_keep", "num_items_in_batch"),
        *("output_hidden_states", "output_router_logits", "past_key_value", "past_key_values"),
        *("position_embeddings", "position_ids", "return_dict", "use_cache"),
    }
)
"""Arguments of models that do not change the attention of a layer."""


class SteppedCache(Protocol):
    """A cache of a session."""

    def step(self, layer: int, q: Tensor, k: Tensor, v: Tensor, call: "LayerCall") -> Tensor:
        """Append and attend: from `[B, heads, n, D]` to `[B, n, H, Dv]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """The positions that the rotary embedding got: one call in each forward pass of the model."""

    positions: Tensor
    """`[B, n]`, or `[1, n]` for all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """What a model asks of a layer, to be compared with what the session computes."""

    rotation: Rotation
    mask: SessionMask
    scale: float | None
    softcap: float | None
    sliding_window: int | None
    sinks: Tensor | None


@dataclass(frozen=True, slots=True)
class Update:
    """New keys and values, from `SessionLayer.update` to the attention function."""

    cache: SteppedCache
    layer: int
    k: Tensor
    v: Tensor


UPDATE: ContextVar[Update | None] = ContextVar("UPDATE", default=None)
"""The last update of this thread: transformers does not pass the cache to attention functions."""

ROTATION: ContextVar[Rotation | None] = ContextVar("ROTATION", default=None)
"""Of the forward pass of the model in this thread."""


def session_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: SessionMask | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Step a layer of the session: transformers calls it for each layer.

    Raises:
        UnsupportedModelCall: the model asks for what a session does not compute.
    """
    update = UPDATE.get()
    UPDATE.set(None)
    if update is None or update.k is not key or update.v is not value:
        raise UnsupportedModelCall(
            "the model keeps its cache in a session while the block of session_cache is open: "
            "pass past_key_values=cache"
        )
    if not isinstance(attention_mask, SessionMask):
        kind = "none" if attention_mask is None else f"a tensor {list(attention_mask.shape)}"
        raise UnsupportedModelCall(f"attention_mask must be [batch, tokens] or absent, got {kind}")
    if dropout or (torch.is_grad_enabled() and query.requires_grad):
        raise UnsupportedModelCall("sessions have no gradients and no dropout: use torch.no_grad()")
    _refuse(others)
    rotation = ROTATION.get()
    if rotation is None or rotation.positions.ndim != 2:
        raise UnsupportedModelCall("each token must have one position, and a rotary embedding")
    positions = others.get("position_ids")
    if positions is not None and not _is_same(positions, rotation.positions):
        raise UnsupportedModelCall(
            "the positions of the rotary embedding must be the position_ids of the layers"
        )
    call = LayerCall(
        rotation=rotation,
        mask=attention_mask,
        scale=scaling,
        softcap=softcap,
        sliding_window=sliding_window,
        sinks=s_aux,
    )
    return update.cache.step(update.layer, query, key, value, call), None


def _is_same(positions: Tensor, rotated: Tensor) -> bool:
    return positions is rotated or torch.equal(positions, rotated)


def _refuse(others: dict[str, Any]) -> None:
    if others.pop("is_causal", None) is False:
        raise UnsupportedModelCall(
            "sessions are causal, and the model asks for attention that is not"
        )
    for name, value in others.items():
        if name not in _WITHOUT_EFFECT and value is not None and value is not False:
            raise UnsupportedModelCall(f"sessions have no attention with {name}")
