"""Lets a model use a session as its cache, within a `with` block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from rope_client.sync import Client
from rope_client.transformers.attention import NAME, ROTATION, Rotation, session_attention
from rope_client.transformers.cache import RopeSessionCache
from rope_client.transformers.errors import UnsupportedModelCall
from rope_client.transformers.masks import session_mask

AttentionInterface.register(NAME, session_attention)
AttentionMaskInterface.register(NAME, session_mask)


class IdentityRotary(nn.Module):
    """Replaces a rotary embedding: rotates nothing, and records the positions for the service."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return cosines that are 1 and sines that are 0, or complex numbers that are 1."""
        ROTATION.set(Rotation(position_ids))
        table = self.rotary(x, position_ids, *args, **kwargs)
        if isinstance(table, tuple) and len(table) == 2:
            return torch.ones_like(table[0]), torch.zeros_like(table[1])
        if isinstance(table, Tensor) and table.is_complex():
            return torch.ones_like(table)
        raise UnsupportedModelCall(
            f"{type(self.rotary).__name__} returns neither cos and sin nor complex numbers"
        )


@contextmanager
def session_cache(
    client: Client,
    model: PreTrainedModel,
    *,
    max_tokens: int | None = None,
    is_streamed: bool = True,
    **configuration: Any,
) -> Iterator[RopeSessionCache]:
    """Yield a cache for `model.generate(..., past_key_values=cache)`, kept by the service.

    Within the block the model computes no attention and no rotation itself, and runs with this
    cache or its forks only. The end of the block restores the model and deletes the session.

    Args:
        client: of the service.
        model: a decoder of transformers with rotary embeddings.
        max_tokens: longest a row may become, see `Client.session`.
        is_streamed: a WebSocket for the steps; else HTTP.
        configuration: further arguments of `Client.session`, instead of the model's config.

    Raises:
        UnsupportedModelCall: the model has no rotary embedding; later, it asks for attention that
            the session does not compute.
    """
    decoder: Any = model.get_decoder()
    config = decoder.config
    configuration = {"config": config, "dtype": model.dtype, **configuration}
    configuration["max_tokens"] = max_tokens
    before = config._attn_implementation
    replaced = _replace_rotary(decoder)
    cache = RopeSessionCache(
        client,
        configuration,
        config.num_hidden_layers,
        sinks=_sinks(decoder),
        is_streamed=is_streamed,
    )
    try:
        decoder.set_attn_implementation(NAME)
        yield cache
    finally:
        decoder.set_attn_implementation(before)
        for parent, name, rotary in replaced:
            setattr(parent, name, rotary)
        cache.close()


def _sinks(decoder: nn.Module) -> dict[int, Tensor]:
    """Return the attention sinks of the layers that have them, `[H]`."""
    sinks = {}
    for module in decoder.modules():
        layer, tensor = getattr(module, "layer_idx", None), getattr(module, "sinks", None)
        if isinstance(layer, int) and isinstance(tensor, Tensor):
            sinks[layer] = tensor.detach()
    return sinks


def _replace_rotary(decoder: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replace the rotary embeddings; return where they were.

    Raises:
        UnsupportedModelCall: there are none.
    """
    rotaries = [
        (parent, name, child)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if "RotaryEmbedding" in type(child).__name__ and not isinstance(parent, IdentityRotary)
    ]
    if not (rotaries or any(isinstance(module, IdentityRotary) for module in decoder.modules())):
        raise UnsupportedModelCall(f"{type(decoder).__name__} has no rotary embedding to replace")
    for parent, name, rotary in rotaries:
        setattr(parent, name, IdentityRotary(rotary))
    return rotaries
